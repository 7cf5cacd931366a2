import { cleanup, render } from '@testing-library/react'
import content from 'src/testing/content.json'
import { countFormulas, guardDollars, unguard } from 'src/ui/content/dollarGuard'
import { Rich } from 'src/ui/content/Rich'
import { typeset } from 'src/ui/content/typeset'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

const show = (text: string) => render(<Rich text={text} prefix="p-" typeset={typeset} />).container

test.each(content.dollars.map((one) => [one.text, one] as const))('%s', (text, expected) => {
  const box = show(text)
  expect(countFormulas(text)).toBe(expected.formulas)
  expect(box.querySelectorAll('.katex')).toHaveLength(expected.formulas)
  expect(box.querySelectorAll('.katex-display')).toHaveLength(expected.display ? expected.formulas : 0)
  expect(box.querySelectorAll('.katex-error')).toHaveLength(0)
  if (expected.shown !== undefined) expect(box.textContent).toBe(expected.shown)
  expect(box.textContent).not.toMatch(/[\uFDD0-\uFDD3]/)
})

test.each([
  'echo "$a" "$b"',
  // biome-ignore lint/suspicious/noTemplateCurlyInString: a shell's, not ours.
  'export PATH=${X}/bin:${Y}',
  '$HOME$PATH',
  'cut -d\\( -f1 | grep "\\(a"',
  'see https://example.org/?a=$5&b=$6',
  '```\nnever closed \\(x\\) $y$',
  '- item\n\n      code $x$ \\(y\\)',
  '1. item\n   ```\n   $x$ \\(y\\)\n   ```',
  '> ```\n> $x$ \\(y\\)\n> ```',
  '~~~text\n```\n$x$\n~~~',
])('no formula and nothing changed: %s', (text) => {
  expect(countFormulas(text)).toBe(0)
  expect(unguard(guardDollars(text))).toBe(text)
})

test.each([
  ['- item\n\n  \\(x\\) in its paragraph', 1],
  ['> ```\n> $x$\n\n\\(after the quote\\)', 1],
  ['if $x>0$, then $y<0$.', 2],
  ['\\(a\\)\\(b\\)', 2],
  ['**$x$** and *$y$*', 2],
  ['\\(open and never closed, \\(x\\)', 1],
])('%s', (text, formulas) => {
  expect(show(text).querySelectorAll('.katex')).toHaveLength(formulas)
})

test('a bar in a formula ends no cell', () => {
  const box = show('| a | b |\n| - | - |\n| $|x|$ | y |')
  expect([...box.querySelectorAll('td')].map((cell) => cell.querySelector('annotation')?.textContent)).toEqual([
    '|x|',
    undefined,
  ])
})

test('text that is all signs takes no time', () => {
  const before = performance.now()
  for (const sign of ['\\(', '\\[x ', '$x `', '$$', '> ', '- ', '\\(\\[', '`$', '    '])
    guardDollars(`${sign.repeat(7000)}$`)
  expect(performance.now() - before).toBeLessThan(2000)
})
