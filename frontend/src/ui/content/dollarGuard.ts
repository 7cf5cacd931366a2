/**
 * Decides which dollars of a text are formulas, before Markdown reads it: prices and shell variables stay text, and what
 * models write as `\( \)`, `\[ \]` and `$$ $$` becomes a formula. Every dollar that is none is replaced by a mark that no
 * parser knows and put back afterwards, so a wrong guess about code can hide a formula but never change a text.
 */

/** Unicode reserves these for a program's own use; they are in no text that people exchange. */
const DOLLAR = '\uFDD0'
const PIPE = '\uFDD1'
const DISPLAY = '\uFDD2'
const END = '\uFDD3'
const MARKS = /[\uFDD0-\uFDD3]/g
const PUT_BACK: Record<string, string> = { [DOLLAR]: '$', [PIPE]: '|' }

/** The text with `$…$` around each formula and no other dollar. */
export function guardDollars(source: string): string {
  if (!/[$\\]/.test(source)) return source
  return blocks(source.replace(MARKS, '\uFFFD').replace(/\r\n?/g, '\n'))
    .map(({ code, lines }) => (code ? hide(lines.join('\n')) : guardProse(lines.join('\n'))))
    .join('\n')
}

export function countFormulas(source: string): number {
  return guardDollars(source).split(END).length - 1
}

/** What the guard marked, as it was. */
export const unguard = (text: string): string => text.replace(MARKS, (mark) => PUT_BACK[mark] ?? '')

const hide = (text: string): string => text.replaceAll('$', DOLLAR)

type Block = { code: boolean; lines: string[] }
type Fence = { sign: string; length: number; quotes: number; indent: number }

const QUOTES = /^(?: {0,3}>[ \t]?)*/
const LIST_MARK = /^( *)(?:[-*+]|\d{1,9}[.)])(?= |$)( {0,4})/
const FENCE = /^ *(`{3,}(?!.*`)|~{3,})/

/** Fenced and indented code apart from the rest. */
function blocks(source: string): Block[] {
  const found: Block[] = []
  let fence: Fence | null = null
  let items: number[] = [] // columns where the texts of the open list items begin
  let quotesBefore = 0
  let open = false // a paragraph is open, so that an indented line belongs to it
  let indented = false
  for (const line of source.split('\n')) {
    const prefix = QUOTES.exec(line)?.[0] ?? ''
    const quotes = prefix.split('>').length - 1
    const body = line.slice(prefix.length).replaceAll('\t', '    ')
    const blank = body.trim() === ''
    const indent = body.length - body.trimStart().length
    if (fence && (quotes < fence.quotes || (!blank && indent < fence.indent))) fence = null
    let code = fence !== null
    if (fence) {
      const closing = body.trim()
      if (closing.length >= fence.length && closing === fence.sign.repeat(closing.length)) fence = null
    } else if (blank) {
      code = indented
      open = false
    } else {
      if (quotes !== quotesBefore) items = []
      const mark = LIST_MARK.exec(body)
      if (!open || mark) items = items.filter((column) => column <= indent)
      code = (indented || !open) && indent >= (items.at(-1) ?? 0) + 4
      indented = code
      if (!code) {
        let column = 0
        for (let next = mark; next; next = LIST_MARK.exec(body.slice(column))) {
          column += next[0].length
          items.push(column)
        }
        const [, run] = FENCE.exec(body.slice(column)) ?? []
        if (run) {
          fence = { sign: run[0] ?? '`', length: run.length, quotes, indent: column }
          code = true
        }
        open = !run && !/^ {0,3}#{1,6}( |$)/.test(body)
      }
    }
    quotesBefore = quotes
    const last = found.at(-1)
    if (last?.code === code) last.lines.push(line)
    else found.push({ code, lines: [line] })
  }
  return found
}

/** What stands at a sign, as it goes on to Markdown, and where the text continues. */
type Piece = { out: string; end: number }

function guardProse(text: string): string {
  const out: string[] = []
  let at = 0
  const signs = /[\\`$]/g
  for (let sign = signs.exec(text); sign; sign = signs.exec(text)) {
    const piece = pieceAt(text, sign.index)
    out.push(text.slice(at, sign.index), piece.out)
    at = piece.end
    signs.lastIndex = at
  }
  return out.join('') + text.slice(at)
}

function pieceAt(text: string, at: number): Piece {
  if (text[at] === '`') return codeSpan(text, at)
  if (text[at] === '$') return dollars(text, at)
  const next = text[at + 1]
  if (next === '(' || next === '[') {
    const display = next === '['
    const end = closing(text, at, display ? ']' : ')')
    const out = end < 0 ? null : formula(text, at, text.slice(at + 2, end), display)
    if (out !== null) return { out, end: end + 2 }
  }
  return { out: next === '$' ? DOLLAR : text.slice(at, at + 2), end: at + 2 }
}

function codeSpan(text: string, at: number): Piece {
  const length = runAt(text, at)
  const runs = /`+/g
  runs.lastIndex = at + length
  for (let run = runs.exec(text); run; run = runs.exec(text)) {
    if (run[0].length !== length) continue
    const span = text.slice(at, runs.lastIndex)
    if (/\n[ \t>]*(?:\n|#{1,6} |[-*+] |\d{1,9}[.)] )/.test(span)) break
    return { out: hide(span), end: runs.lastIndex }
  }
  return { out: text.slice(at, at + length), end: at + length }
}

function dollars(text: string, at: number): Piece {
  const length = runAt(text, at)
  const plain = { out: DOLLAR.repeat(length), end: at + length }
  if (length > 2) return plain
  const end = closing(text, at, '$'.repeat(length))
  if (end < 0) return plain
  const inner = text.slice(at + length, end)
  if (length === 1 && !isFormula(inner, text.slice(end + 1, end + 3))) return plain
  const out = formula(text, at, inner, length === 2)
  return out === null ? plain : { out, end: end + length }
}

/** How many times the sign at `at` stands there. */
function runAt(text: string, at: number): number {
  let end = at
  while (text[end] === text[at]) end += 1
  return end - at
}

const PARAGRAPH_ENDS = /\\([\s\S])|\$+|\n[ \t>]*(?=\n)/g
const ITEM_ENDS = /\\([\s\S])|\$+|\n[ \t>]*(?=\n|#{1,6} |[-*+] |\d{1,9}[.)] )/g
const OPENS: Record<string, string> = { ')': '(', ']': '[' }

/** Where the formula that opens at `at` closes, or -1. Only one whose opening has a line of its own may hold empty lines. */
function closing(text: string, at: number, sign: string): number {
  const display = sign === ']' || sign === '$$'
  const alone =
    /(?:^|\n)[ \t>]*$/.test(text.slice(Math.max(0, at - 20), at)) && /^..[ \t]*\n/.test(text.slice(at, at + 20))
  const stops = display ? PARAGRAPH_ENDS : ITEM_ENDS
  stops.lastIndex = at + (sign === '$' ? 1 : 2)
  for (let stop = stops.exec(text); stop; stop = stops.exec(text)) {
    const [found, escaped] = stop
    if ((sign.startsWith('$') ? found : escaped) === sign) return stop.index
    if (found.startsWith('\n') && !(display && alone)) return -1
    // The next dollar of a text closes a single one or nothing does; a longer run is no mathematics.
    if (found.startsWith('$') && (sign === '$' || found.length > 2)) return -1
    if (escaped !== undefined && escaped === OPENS[sign]) return -1
  }
  return -1
}

/** What KaTeX refuses it shows by its name alone; such a formula stays text, all of it to be seen. */
const UNTRUSTED = /\\(?:href|url|includegraphics|html(?:Class|Id|Style|Data))(?![A-Za-z])/

function formula(text: string, at: number, inner: string, display: boolean): string | null {
  // A comment ends with its line, and lines are joined here.
  const lines = inner.includes('\n') ? inner.split('\n').map((line) => line.replace(/(?<!\\)%.*$/, '')) : [inner]
  const line = text.slice(text.lastIndexOf('\n', at) + 1, at)
  const quoted = /^[ \t]*>/.test(line)
  const body = lines
    .map((one, index) => (quoted && index > 0 ? one.replace(/^[ \t>]+/, '') : one))
    .join(' ')
    .trim()
  // A cell of a table ends at a bar, even inside a formula.
  return body === '' || UNTRUSTED.test(body)
    ? null
    : `$${display ? DISPLAY : ''}${hide(body).replaceAll('|', PIPE)}$${END}`
}

/** Whether what stands between two single dollars of a line is mathematics, given what follows. */
function isFormula(inner: string, after: string): boolean {
  if (inner.includes('\n') || !/^\S/.test(inner) || !/\S$/.test(inner) || /^\d/.test(after)) return false
  // A bare amount before a hyphenated word: a $10$-off coupon.
  if (/^[\d.,]+$/.test(inner) && /^-\p{L}/u.test(after)) return false
  // Shell variables: $HOME/bin:$PATH, "$a" "$b", $HOME$PATH, ${X}${Y}.
  if (/^[\p{L}_{]/u.test(after) && (/[^\p{L}\p{N})\]}'!*]$/u.test(inner) || /^[A-Z_][A-Z0-9_]+$/.test(inner)))
    return false
  return !/^\{[A-Za-z_]\w+[}:]/.test(inner)
}

type Tree = { [field: string]: unknown }

/** After Markdown has read the guarded text: every mark goes, and a formula of its own line is known as one. */
export function remarkDollars() {
  return (tree: object): void => {
    restore(tree as Tree)
  }
}

function restore(node: Tree): void {
  const data = node.data as { hProperties?: Tree } | undefined
  if (node.type === 'inlineMath' && String(node.value).startsWith(DISPLAY) && data?.hProperties) {
    data.hProperties.className = ['language-math', 'math-display']
  }
  for (const [field, value] of Object.entries(node)) {
    if (field === 'position') continue
    if (typeof value === 'string') node[field] = unguard(value)
    else if (typeof value === 'object' && value !== null) restore(value as Tree)
  }
}
