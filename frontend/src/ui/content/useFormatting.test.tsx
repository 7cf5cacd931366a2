import { cleanup, render, screen } from '@testing-library/react'
import userEvent from '@testing-library/user-event'
import { Markdown } from 'src/ui/content/Markdown'
import { FormattingNotice, useFormatting } from 'src/ui/content/useFormatting'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  cleanup()
  vi.restoreAllMocks()
})

function Both({ texts }: { texts: string[] }) {
  const formatting = useFormatting(texts)
  return (
    <>
      {texts.map((text) => (
        <Markdown key={text} text={text} prefix="p-" mode={formatting.mode} onBroken={formatting.onBroken} />
      ))}
      <FormattingNotice of={formatting} />
    </>
  )
}

const SMALL = 'A **small** one.'

test.each([
  ['too long', `**strong** ${'word '.repeat(4_001)}`],
  ['too many formulas', `**strong** ${'$x$ '.repeat(201)}`],
])('one that is %s makes both plain until the person wants it', async (_, big) => {
  render(<Both texts={[SMALL, big]} />)
  await userEvent.click(await screen.findByRole('button', { name: 'Render anyway' }))
  expect((await screen.findAllByText(/^(small|strong)$/)).map((node) => node.tagName)).toEqual(['STRONG', 'STRONG'])
  expect(screen.queryByRole('button')).toBeNull()
})

test('at the caps both are formatted', async () => {
  render(<Both texts={[SMALL, `**strong** ${'$x$ '.repeat(200)}`]} />)
  expect((await screen.findByText('small')).tagName).toBe('STRONG')
})

test('one that breaks the renderer makes both plain, and the page lives', async () => {
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  render(<Both texts={[SMALL, `${'> '.repeat(3_000)}deep`]} />)
  expect(await screen.findByText(/did not work here/, undefined, { timeout: 20_000 })).toBeDefined()
  expect(screen.getByText(SMALL)).toBeDefined()
}, 30_000)
