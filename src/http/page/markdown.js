// The part of Markdown that answers use, built as DOM nodes. Text only ever becomes text nodes, so nothing in an answer
// can become markup of the page.

const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/
const HEADING = /^#{1,6}\s+(.*)$/
const BULLET = /^\s*[-*+]\s+(.*)$/
const NUMBER = /^\s*(\d{1,9})[.)]\s+(.*)$/
/** Code first: nothing inside of it is marked up. Every run is bounded, so that hostile text costs no more than long text. */
const INLINE = new RegExp(
  [
    '`([^`\\n]{1,1000})`',
    '\\*\\*(\\S(?:.{0,1000}?\\S)?)\\*\\*',
    '(?<![\\w*])\\*([^\\s*](?:[^*\\n]{0,500}[^\\s*])?)\\*(?![\\w*])',
    '\\[([^\\]\\n]{1,300})\\]\\((https?://[^\\s)]{1,2000})\\)',
  ].join('|'),
  's',
)

/** Turns Markdown into nodes: paragraphs, headings, fences, lists; code, bold, emphasis and links inside of them. */
export function renderMarkdown(text) {
  const nodes = document.createDocumentFragment()
  const lines = text.replaceAll('\r\n', '\n').split('\n')
  while (lines.length > 0) {
    if (lines[0].trim() === '') lines.shift()
    else nodes.append(takeFence(lines) ?? takeHeading(lines) ?? takeList(lines) ?? takeParagraph(lines))
  }
  return nodes
}

function takeFence(lines) {
  const open = FENCE.exec(lines[0])
  if (!open) return null
  lines.shift()
  const code = []
  // A fence that is not closed yet, as while an answer is coming, runs to the end.
  while (lines.length > 0) {
    const line = lines.shift()
    if (line.trim() === open[1]) break
    code.push(line)
  }
  const pre = element('pre', element('code', code.join('\n')))
  pre.tabIndex = 0
  return pre
}

function takeHeading(lines) {
  const heading = HEADING.exec(lines[0])
  if (!heading) return null
  lines.shift()
  // The page has its own headings above; those of an answer are all below them.
  return element('h4', ...renderInline(heading[1]))
}

function takeList(lines) {
  const numbered = NUMBER.exec(lines[0])
  const marker = numbered ? NUMBER : BULLET
  if (!marker.test(lines[0])) return null
  const list = element(numbered ? 'ol' : 'ul')
  if (numbered) list.start = Number(numbered[1])
  while (lines.length > 0 && marker.test(lines[0])) {
    const item = [marker.exec(lines.shift()).at(-1)]
    while (lines.length > 0 && /^\s+\S/.test(lines[0]) && !startsBlock(lines[0])) item.push(lines.shift().trim())
    list.append(element('li', ...renderInline(item.join('\n'))))
    if (lines[0]?.trim() === '' && marker.test(lines[1] ?? '')) lines.shift()
  }
  return list
}

function takeParagraph(lines) {
  const text = [lines.shift()]
  while (lines.length > 0 && lines[0].trim() !== '' && !startsBlock(lines[0])) text.push(lines.shift())
  return element('p', ...renderInline(text.join('\n')))
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || BULLET.test(line) || NUMBER.test(line)
}

function renderInline(text) {
  const nodes = []
  let rest = text
  for (let match = INLINE.exec(rest); match; match = INLINE.exec(rest)) {
    nodes.push(...plain(rest.slice(0, match.index)), renderMark(match))
    rest = rest.slice(match.index + match[0].length)
  }
  return [...nodes, ...plain(rest)]
}

function renderMark([, code, bold, emphasis, label, url]) {
  if (code !== undefined) return element('code', code)
  if (bold !== undefined) return element('strong', ...renderInline(bold))
  if (emphasis !== undefined) return element('em', ...renderInline(emphasis))
  const link = element('a', ...renderInline(label))
  link.href = url
  link.target = '_blank'
  link.rel = 'noopener noreferrer'
  return link
}

/** Text with its line ends kept. */
function plain(text) {
  return text.split('\n').flatMap((line, index) => (index === 0 ? [line] : [document.createElement('br'), line]))
}

/** An element with the given children; strings become text nodes. */
export function element(name, ...children) {
  const node = document.createElement(name)
  node.append(...children)
  return node
}
