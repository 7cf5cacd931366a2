import { isJsonLines, promptFile, promptsOf } from 'src/setup/pasted'
import { expect, test } from 'vitest'

test('a line is a prompt, and the same one twice counts once', () => {
  expect(promptsOf('What is tea?\r\n\n  Why?  \nWhat is tea?\n')).toEqual(['What is tea?', 'Why?'])
  expect(promptsOf(' \n ')).toEqual([])
})

test('rules stand between prompts of several lines', () => {
  expect(promptsOf('One\nand more\n---\nTwo\n\n-----\n')).toEqual(['One\nand more', 'Two'])
  expect(promptsOf('a --- b\nc')).toEqual(['a --- b', 'c'])
})

test('lines of JSON go in as they are, others become objects', async () => {
  const lines = '{"prompt": "One"}\n\n{"prompt": "Two"}\n'
  expect(isJsonLines(lines)).toBe(true)
  expect(isJsonLines('{ is a brace')).toBe(false)
  const asIs = promptFile(lines, 'ignored')
  expect(asIs.prompts).toBe(2)
  expect(await asIs.file.text()).toBe('{"prompt": "One"}\n{"prompt": "Two"}\n')
  expect(await promptFile('Say "hi"', 'chat').file.text()).toBe('{"prompt":"Say \\"hi\\"","category":"chat"}\n')
})
