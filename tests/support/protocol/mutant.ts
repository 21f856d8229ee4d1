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
  /** @throws Error when the statement is there and the piece is not: the product has changed. */
  templateFor(strings: TemplateStringsArray): TemplateStringsArray
  /** Whether a statement was changed since `use`; if none was, nothing was tested. */
  hasMet(): boolean
}

const PARAMETER = '§'

export function createMutation(): Mutation {
  let current: Mutant | null = null
  let met = false
  /** The same array for the same template, or the driver would not know its prepared statement again. */
  let known = new WeakMap<TemplateStringsArray, TemplateStringsArray>()

  function change(strings: TemplateStringsArray, mutant: Mutant): TemplateStringsArray {
    const text = strings.join(PARAMETER)
    if (!text.includes(mutant.in)) return strings
    met = true
    const changed = mutant.replace.reduce((now, [piece, instead]) => {
      if (!now.includes(piece)) throw new Error(`the statement with "${mutant.in}" has no "${piece}" any more`)
      return now.replace(piece, () => instead)
    }, text)
    const parts = changed.split(PARAMETER)
    if (parts.length !== strings.length) throw new Error(`"${mutant.in}": a mutant keeps the parameters`)
    return Object.assign(parts, { raw: parts }) as unknown as TemplateStringsArray
  }

  return {
    use(mutant) {
      current = mutant
      met = false
      known = new WeakMap()
    },
    templateFor(strings) {
      if (!current) return strings
      const made = known.get(strings) ?? change(strings, current)
      known.set(strings, made)
      return made
    },
    hasMet: () => met,
  }
}
