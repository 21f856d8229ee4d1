/** Stands between the texts of two steps of one turn, in the stream and in the final text alike. */
export const STEP_SEPARATOR = '\n\n'

export interface ResumePoint {
  /** Text of saved steps that never reached the stream: the next thing to send. */
  missing: string
  /** Text of the unsaved step that reached the stream: the model continues after it. */
  partial: string
}

/**
 * Where a turn stands whose earlier attempt was cut off, from the two things that survived it.
 *
 * A step's text is streamed while it is made and saved when it is done, so one is a prefix of the other: the stream is
 * behind when the crash hit between saving and sending, and ahead when it hit in the middle of a step.
 *
 * @param saved texts of the turn's saved steps, in order; @param streamed all its published text.
 */
export function findResumePoint(saved: string[], streamed: string): ResumePoint {
  const whole = joinSteps(saved)
  if (streamed.length <= whole.length) return { missing: whole.slice(streamed.length), partial: '' }
  const rest = streamed.slice(whole.length)
  const separated = whole !== '' && rest.startsWith(STEP_SEPARATOR)
  return { missing: '', partial: separated ? rest.slice(STEP_SEPARATOR.length) : rest }
}

/** The visible text of a turn: its steps' texts, the empty ones left out. */
export function joinSteps(texts: string[]): string {
  return texts.filter((text) => text !== '').join(STEP_SEPARATOR)
}
