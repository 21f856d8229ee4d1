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

  function change(strings: TemplateStringsArray, mutant: Mutant): TemplateStringsArray {
    if (!knows(mutant, strings)) return strings
    const changed = rewrite(strings, mutant)
    problem = typeof changed === 'string' ? changed : null
    return typeof changed === 'string' ? strings : changed
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

export function knows(mutant: Mutant, strings: TemplateStringsArray): boolean {
  return strings.join(PARAMETER).includes(mutant.in)
}

/** The changed template, or why it cannot be changed. */
export function rewrite(strings: TemplateStringsArray, { in: where, replace }: Mutant): TemplateStringsArray | string {
  const text = strings.join(PARAMETER)
  const missing = replace.find(([piece]) => !text.includes(piece))
  if (missing) return `the statement with "${where}" has no "${missing[0]}"`
  const parts = replace.reduce((now, [piece, instead]) => now.replace(piece, () => instead), text).split(PARAMETER)
  if (parts.length !== strings.length) return `the mutant of "${where}" does not keep the parameters`
  return Object.assign(parts, { raw: parts }) as unknown as TemplateStringsArray
}
