import { KEYMAP, keyOf, matchKey } from 'src/ui/keys/keymap'
import { afterEach, expect, test } from 'vitest'

const open = { now: 1_000, guardUntil: 0 }

function press(key: string, init: KeyboardEventInit & { keyCode?: number } = {}, target: Element = document.body) {
  let heard: KeyboardEvent | undefined
  const listener = (event: Event) => {
    heard = event as KeyboardEvent
  }
  target.addEventListener('keydown', listener)
  target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, ...init }))
  target.removeEventListener('keydown', listener)
  if (!heard) throw new Error('no key event')
  return matchKey(heard, ['choice', 'task', 'any'], open)
}

function element(html: string): Element {
  const template = document.createElement('template')
  document.body.append(template)
  const [tag = '', type = ''] = html.split(':')
  const node = document.createElement(tag)
  if (type) node.setAttribute('type', type)
  document.body.append(node)
  return node
}

afterEach(() => document.body.replaceChildren())

test.each([
  ['a', 'chooseLeft'],
  ['1', 'chooseLeft'],
  ['B', 'chooseRight'],
  ['2', 'chooseRight'],
  ['t', 'chooseTie'],
  ['3', 'chooseTie'],
  ['u', 'undo'],
  ['s', 'skip'],
  ['f', 'flag'],
  ['g', 'guideline'],
  ['v', 'source'],
  ['d', 'differences'],
  ['l', 'lock'],
  ['[', 'focusLeft'],
  [']', 'focusRight'],
  [' ', 'pageDown'],
  ['?', 'help'],
])('%s is %s', (key, name) => {
  expect(press(key)).toBe(name)
})

test('arrows and unknown keys do nothing', () => {
  expect(['ArrowLeft', 'ArrowRight', 'Escape', 'q', '9'].map((key) => press(key))).toEqual(Array(5).fill(null))
})

test('Enter submits, except where it presses or writes', () => {
  expect([press('Enter'), press('Enter', {}, element('input:radio'))]).toEqual(['submit', 'submit'])
  expect([press('Enter', {}, element('button')), press('Enter', {}, element('textarea'))]).toEqual([null, null])
  expect(press('Enter', { ctrlKey: true }, element('textarea'))).toBe('submit')
})

test('the first scope that knows a key has it', () => {
  const event = (key: string, init: KeyboardEventInit = {}) => new KeyboardEvent('keydown', { key, ...init })
  expect(matchKey(event('f'), ['rank', 'task'], open)).toBe('place6')
  expect(matchKey(event('F', { shiftKey: true }), ['rank', 'task'], open)).toBe('flag')
  expect(matchKey(event('1'), ['row', 'scale', 'task'], open)).toBe('row1')
  expect(matchKey(event('ArrowUp', { altKey: true }), ['rank'], open)).toBe('moveUp')
  expect([keyOf('flag', ['rank', 'task']), keyOf('flag', ['choice', 'task'])]).toEqual(['shift+f', 'f'])
})

test('a held key is one vote', () => {
  expect(press('a', { repeat: true })).toBeNull()
})

test('a key of an input method is not ours', () => {
  expect(press('a', { isComposing: true })).toBeNull()
  expect(press('a', { keyCode: 229 })).toBeNull()
})

test('modifiers belong to the browser, except for undo', () => {
  expect([press('a', { ctrlKey: true }), press('b', { metaKey: true }), press('s', { altKey: true })]).toEqual([
    null,
    null,
    null,
  ])
  expect([press('z', { ctrlKey: true }), press('z', { metaKey: true })]).toEqual(['undo', 'undo'])
  expect(press('z', { ctrlKey: true, shiftKey: true })).toBeNull()
})

test('AltGr is how some layouts write a bracket', () => {
  expect(press('[', { ctrlKey: true, altKey: true, modifierAltGraph: true })).toBe('focusLeft')
})

test('digits count by their key on layouts that shift them', () => {
  expect(press('&', { code: 'Digit1' })).toBe('chooseLeft')
  expect(press('!', { code: 'Digit1', shiftKey: true })).toBeNull()
})

test.each(['input:text', 'input:search', 'input:password', 'textarea', 'select'])('typing in %s is typing', (html) => {
  const node = element(html)
  expect([press('1', {}, node), press('a', {}, node), press(' ', {}, node)]).toEqual([null, null, null])
})

test('a focused radio takes letters as votes, but keeps its space', () => {
  const node = element('input:radio')
  expect([press('a', {}, node), press(' ', {}, node)]).toEqual(['chooseLeft', null])
})

test('space on a focused button presses the button', () => {
  expect(press(' ', {}, element('button'))).toBeNull()
  expect(press(' ', { shiftKey: true })).toBe('pageUp')
})

test('right after a task appears single keys are silent', () => {
  const event = new KeyboardEvent('keydown', { key: 'a' })
  expect(matchKey(event, ['choice'], { now: 1_249, guardUntil: 1_250 })).toBeNull()
  expect(matchKey(event, ['choice'], { now: 1_250, guardUntil: 1_250 })).toBe('chooseLeft')
})

test('keys of other scopes are not heard', () => {
  expect(matchKey(new KeyboardEvent('keydown', { key: 'a' }), ['reason', 'any'], open)).toBeNull()
})

test('no key means two things in one scope', () => {
  for (const scope of ['task', 'choice', 'scale', 'row', 'rank', 'reason', 'any'] as const) {
    const keys = KEYMAP.filter((entry) => entry.scope === scope || entry.scope === 'any').flatMap((entry) => [
      ...entry.keys,
    ])
    expect(new Set(keys).size).toBe(keys.length)
  }
})
