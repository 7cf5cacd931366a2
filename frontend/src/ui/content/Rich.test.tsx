import { cleanup, render, screen } from '@testing-library/react'
import { showOverrides } from 'src/ui/content/Markdown'
import { Rich } from 'src/ui/content/Rich'
import { afterEach, expect, test } from 'vitest'

afterEach(cleanup)

const show = (text: string) => render(<Rich text={text} prefix="pane-" />).container

const HOSTILE: [string, string, string][] = [
  ['script element', '<script>alert(1)</script>', '<script>alert(1)</script>'],
  ['image with onerror', '<img src=x onerror=alert(1)>', 'onerror=alert(1)'],
  ['javascript link', '[go](javascript:alert(1))', 'go'],
  ['the same in mixed case', '[go](JaVaScRiPt:alert(1))', 'go'],
  ['data link', '[go](data:text/html,<script>alert(1)</script>)', 'go'],
  ['tracking image', '![a pixel](https://tracker.test/p.png)', '[image: a pixel]'],
  ['iframe srcdoc', '<iframe srcdoc="<script>alert(1)</script>"></iframe>', 'iframe'],
  ['svg onload', '<svg onload=alert(1)></svg>', 'onload'],
  ['raw anchor', '<a href="javascript:alert(1)" onclick="alert(1)">go</a>', 'onclick'],
  ['style element', '<style>body{display:none}</style>', 'display:none'],
  ['form to a remote host', '<form action="https://evil.test"><input name=p></form>', 'evil.test'],
  ['script inside a code fence', '```html\n<script>alert(1)</script>\n```', '<script>alert(1)</script>'],
  ['reference-style javascript link', '[go][x]\n\n[x]: javascript:alert(1)', 'go'],
  ['details ontoggle', '<details ontoggle=alert(1) open>x</details>', 'ontoggle'],
  ['vbscript link', '[go](vbscript:msgbox)', 'go'],
  ['id clobbering', '<a id=main name=main>x</a>', 'id=main'],
]

test.each(HOSTILE)('%s does nothing and stays visible', (_, text, visible) => {
  const box = show(text)
  expect(box.textContent).toContain(visible)
  expect(
    box.querySelector('script, img, iframe, svg, style, form, details, object, embed, link, meta, base'),
  ).toBeNull()
  for (const node of box.querySelectorAll('*')) {
    for (const { name, value } of node.attributes) {
      expect(name).not.toMatch(/^on|^style$|^src/)
      if (name === 'href') expect(value).toMatch(/^(https?:|mailto:|#pane-)/)
      if (name === 'id') expect(value).toMatch(/^pane-/)
    }
  }
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
