import { parser } from '@prometheus-io/lezer-promql'

type Node = ReturnType<typeof parser.parse>['topNode']

/** A metric as it stands in an expression, and what is asked of its labels. */
export interface Selector {
  metric: string
  matchers: { label: string; operator: string; value: string }[]
}

/** What an expression asks for. */
export interface Query {
  selectors: Selector[]
  /** Labels that its result surely has. */
  labels: Set<string>
  /** What Prometheus would refuse, or answer with nothing for ever. */
  faults: string[]
}

const RANGE_FUNCTIONS = /^(rate|irate|increase|delta|idelta|deriv|changes|resets|\w+_over_time)$/
/** They make labels out of values: whoever uses one teaches `readQuery` what comes out. */
const UNKNOWN_FUNCTIONS = /^(label_replace|label_join|info|absent_over_time)$/
const WRAPPERS = new Set([
  'PromQL',
  'ParenExpr',
  'UnaryExpr',
  'OffsetExpr',
  'StepInvariantExpr',
  'MatrixSelector',
  'SubqueryExpr',
])
const KEEPS_LABELS = new Set(['topk', 'bottomk', 'limitk', 'limit_ratio'])
const SET_OPERATORS = new Set(['and', 'or', 'unless'])

/** Reads one expression by the grammar of Prometheus itself. `labelsOf` says which labels the series of a metric have. */
export function readQuery(text: string, labelsOf: (metric: string) => readonly string[]): Query {
  const query: Query = { selectors: [], labels: new Set(), faults: [] }
  const tree = parser.parse(text)
  const broken = findNode(tree.topNode, (node) => node.type.isError)
  if (broken) return { ...query, faults: [`does not parse at "${text.slice(broken.from)}"`] }
  const said = (node: Node) => text.slice(node.from, node.to)
  const fault = (sentence: string) => void query.faults.push(sentence)

  /** Undefined: a number or a text, which has no labels and is no series. */
  function read(node: Node): Set<string> | undefined {
    if (node.name === 'VectorSelector') return readSelector(node)
    if (node.name === 'FunctionCall') return readFunction(node)
    if (node.name === 'AggregateExpr') return readAggregate(node)
    if (node.name === 'BinaryExpr') return readBinary(node)
    return WRAPPERS.has(node.name) ? firstSeries(childrenOf(node)) : undefined
  }

  function firstSeries(nodes: Node[]): Set<string> | undefined {
    return nodes.map(read).find((labels) => labels !== undefined)
  }

  function readSelector(node: Node): Set<string> {
    const name = node.getChild('Identifier')
    const given = node.getChild('LabelMatchers')
    if (!name || given?.getChild('QuotedLabelMatcher')) fault(`${said(node)} is not known to this check`)
    const metric = name ? said(name) : ''
    const matchers = (given?.getChildren('UnquotedLabelMatcher') ?? []).map((matcher) => ({
      label: said(matcher.getChild('LabelName')!),
      operator: said(matcher.getChild('MatchOp')!),
      value: said(matcher.getChild('StringLiteral')!).slice(1, -1),
    }))
    query.selectors.push({ metric, matchers })
    return new Set(labelsOf(metric))
  }

  function readFunction(node: Node): Set<string> | undefined {
    const name = said(node.getChild('FunctionIdentifier')!)
    if (UNKNOWN_FUNCTIONS.test(name)) fault(`${name} is not known to this check`)
    const args = argumentsOf(node)
    const series = firstSeries(args)
    const isRange = args.some((arg) => ['MatrixSelector', 'SubqueryExpr'].includes(withoutWrapper(arg).name))
    if (series && isRange !== RANGE_FUNCTIONS.test(name)) fault(`${name} wants ${isRange ? 'no ' : 'a '}range`)
    if (name === 'absent') return labelsByEquality(query.selectors.at(-1))
    if (name === 'scalar' || !series) return name === 'vector' ? new Set() : undefined
    if (name.startsWith('histogram_')) {
      if (name === 'histogram_quantile' && !series.has('le')) fault('histogram_quantile wants the label le')
      series.delete('le')
    }
    return series
  }

  function readAggregate(node: Node): Set<string> {
    const operator = said(node.getChild('AggregateOp')!)
    if (operator === 'count_values') fault(`${operator} is not known to this check`)
    const series = firstSeries(argumentsOf(node)) ?? new Set()
    const modifier = node.getChild('AggregateModifier')
    if (!modifier) return KEEPS_LABELS.has(operator) ? series : new Set()
    const named = groupingOf(modifier)
    for (const label of named) if (!series.has(label)) fault(`${said(modifier)}: there is no label ${label}`)
    const kept = modifier.getChild('By') ? named : [...series].filter((label) => !named.includes(label))
    return KEEPS_LABELS.has(operator) ? series : new Set(kept)
  }

  function readBinary(node: Node): Set<string> | undefined {
    const [first, ...rest] = childrenOf(node)
    const [left, right] = [read(first!), read(rest.at(-1)!)]
    if (!left || !right) return left ?? right
    const operator = said(rest[0]!)
    const matching = node.getChild('MatchingModifierClause')
    if (matching?.getChild('GroupLeft') || matching?.getChild('GroupRight')) fault('group_… is not known to this check')
    const named = matching ? groupingOf(matching) : []
    for (const label of named) if (!left.has(label) || !right.has(label)) fault(`${said(matching!)}: no label ${label}`)
    const isCompared = (label: string) => !matching || (matching.getChild('On') !== null) === named.includes(label)
    const compared = (labels: Set<string>) => [...labels].filter(isCompared).sort()
    if (operator === 'or') return new Set([...left].filter((label) => right.has(label)))
    if (compared(left).join() !== compared(right).join()) {
      fault(`"${operator}" never finds a pair: {${[...left]}} and {${[...right]}}`)
    }
    return SET_OPERATORS.has(operator) || !matching ? left : new Set(compared(left))
  }

  const groupingOf = (node: Node) => (node.getChild('GroupingLabels')?.getChildren('LabelName') ?? []).map(said)
  query.labels = read(tree.topNode) ?? new Set()
  return query
}

const labelsByEquality = (selector: Selector | undefined) =>
  new Set(selector?.matchers.filter(({ operator }) => operator === '=').map(({ label }) => label))

function childrenOf(node: Node): Node[] {
  const children: Node[] = []
  for (let child = node.firstChild; child; child = child.nextSibling) children.push(child)
  return children
}

const argumentsOf = (node: Node) => {
  const body = node.getChild('FunctionCallBody')
  return body ? childrenOf(body) : []
}

function withoutWrapper(node: Node): Node {
  const inner = ['OffsetExpr', 'StepInvariantExpr', 'ParenExpr'].includes(node.name) ? node.firstChild : null
  return inner ? withoutWrapper(inner) : node
}

function findNode(node: Node, isWanted: (node: Node) => boolean): Node | undefined {
  if (isWanted(node)) return node
  for (const child of childrenOf(node)) {
    const found = findNode(child, isWanted)
    if (found) return found
  }
  return undefined
}
