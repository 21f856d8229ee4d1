/**
 * One change of the product's SQL, made on its way to the server: what the product would do without a lock or a condition.
 * The product knows nothing of it.
 */
export interface Mutant {
  /** Words by which the statement is known, or the fragment of one that has a template of its own. */
  in: string
  /** What stands there, and what is to stand there; `§` is a parameter, of which none may be lost. */
  replace: [piece: string, instead: string][]
}

/** The product's templates, as they are or with one mutant. */
export interface Mutation {
  /** From now on this mutant, or none. */
  use(mutant: Mutant | null): void
  /** The same array for the same template, or the driver would not know its prepared statement again. */
  templateFor(strings: TemplateStringsArray): TemplateStringsArray
  /** Why nothing was tested since `use`: no statement was changed, or what is to be changed is not there any more. */
  problem(): string | null
}

const PARAMETER = '§'

export function createMutation(): Mutation {
  let current: Mutant | null = null
  let problem: string | null = null
  let known = new WeakMap<TemplateStringsArray, TemplateStringsArray>()

  function change(strings: TemplateStringsArray, { in: where, replace }: Mutant): TemplateStringsArray {
    const text = strings.join(PARAMETER)
    if (!text.includes(where)) return strings
    const missing = replace.find(([piece]) => !text.includes(piece))
    const changed = replace.reduce((now, [piece, instead]) => now.replace(piece, () => instead), text)
    const parts = changed.split(PARAMETER)
    if (missing) problem = `the statement with "${where}" has no "${missing[0]}"`
    else if (parts.length !== strings.length) problem = `the mutant of "${where}" does not keep the parameters`
    else problem = null
    return problem === null ? (Object.assign(parts, { raw: parts }) as unknown as TemplateStringsArray) : strings
  }

  return {
    use(mutant) {
      current = mutant
      problem = mutant && `no statement has "${mutant.in}"`
      known = new WeakMap()
    },
    templateFor(strings) {
      if (!current) return strings
      const made = known.get(strings) ?? change(strings, current)
      known.set(strings, made)
      return made
    },
    problem: () => problem,
  }
}
