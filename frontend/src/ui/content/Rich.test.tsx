import { cleanup, render, screen } from '@testing-library/react'
import content from 'src/testing/content.json'
import { showOverrides } from 'src/ui/content/Markdown'
import { Rich } from 'src/ui/content/Rich'
import { typeset } from 'src/ui/content/typeset'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

const show = (text: string) => render(<Rich text={showOverrides(text)} prefix="pane-" typeset={typeset} />).container

const FORBIDDEN = 'script, img, iframe, style, form, details, object, embed, link, meta, base, video, audio, button'

test.each(content.hostile.map((one) => [one.name, one] as const))('%s does nothing and stays visible', (_, payload) => {
  const box = show(payload.text)
  expect(box.textContent).toContain(payload.visible)
  expect(box.querySelector(FORBIDDEN)).toBeNull()
  for (const node of box.querySelectorAll('*')) {
    const formula = node.closest('.katex, .katex-error') !== null
    if (node.tagName.toLowerCase() === 'svg') expect(formula).toBe(true)
    if (node.tagName === 'INPUT')
      expect([node.getAttribute('type'), node.hasAttribute('disabled')]).toEqual(['checkbox', true])
    for (const { name, value } of node.attributes) {
      expect(name).not.toMatch(/^on|src|^name$|action|^data-(?!footnote)/)
      if (name === 'style')
        expect([formula, value]).toEqual([true, expect.not.stringMatching(/fixed|url\(|background/)])
      if (name === 'href') expect(value).toMatch(/^(https?:|mailto:|#pane-)/)
      if (name === 'id') expect(value).toMatch(/^pane-/)
    }
  }
})

test('there is a payload of each of the 27 classes', () => {
  expect(new Set(content.hostile.map(({ name }) => name)).size).toBe(27)
})

test('KaTeX is not trusted with what the guard does not see', () => {
  const box = show('```math\n\\href{javascript:alert(1)}{x} \\htmlStyle{position:fixed}{y}\n```')
  expect(box.querySelector('.katex')).not.toBeNull()
  expect(box.querySelector('a, [style*=fixed]')).toBeNull()
})

test('code of a known language is coloured, of any other plain', () => {
  const box = show('```python\ndef f(): return "x"\n```\n\n```js\nlet a = 1\n```\n\n```cobol\nMOVE A TO B\n```')
  const [python, script, cobol] = box.querySelectorAll('pre code')
  expect(python?.querySelector('.hljs-keyword')?.textContent).toBe('def')
  expect(python?.textContent).toBe('def f(): return "x"\n')
  expect(script?.querySelector('.hljs-number')?.textContent).toBe('1')
  expect(cobol?.children).toHaveLength(0)
})

test('a good link opens apart and tells nothing', () => {
  show('See https://git-scm.com/docs and [go](vbscript:x)')
  const link = screen.getByRole('link', { name: 'https://git-scm.com/docs' })
  expect([link.getAttribute('target'), link.getAttribute('rel')]).toEqual(['_blank', 'noopener noreferrer nofollow'])
})

test('headings of a model stay below those of the page', () => {
  const box = show('# One\n\n## Two\n\n##### Five')
  expect([...box.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((node) => node.tagName)).toEqual(['H3', 'H4', 'H6'])
})

test('a task list is read-only', () => {
  show('- [x] done')
  expect(screen.getByRole('checkbox')).toHaveProperty('disabled', true)
})

test('footnotes of two panes keep apart', () => {
  const box = show('A claim[^1].\n\n[^1]: The source.')
  const link = box.querySelector<HTMLAnchorElement>('sup a')
  const target = link?.getAttribute('href')?.slice(1) ?? ''
  expect(target).toMatch(/^pane-/)
  expect(box.querySelector(`[id="${target}"]`)).not.toBeNull()
})

test('marks that turn the text around are shown', () => {
  expect(showOverrides('rm \u202e fr-')).toBe('rm [U+202E] fr-')
})
