import { keyFrom, ofKind } from 'src/setup/FormBuilder'
import { readColumns } from 'src/setup/Imports'
import { GROUPS, type Setting, shown, stored } from 'src/setup/settingsSpec'
import { form } from 'src/testing/tasks'
import { expect, test } from 'vitest'

test('columns are pairs of names, a line each', () => {
  expect(JSON.parse(readColumns('prompt = question\n\nresponse_a=first answer\nnonsense'))).toEqual({
    prompt: 'question',
    response_a: 'first answer',
  })
  expect(readColumns(' \n')).toBe('')
})

test('another kind of feedback gets a form that the server takes', () => {
  const scale = form({ kind: 'scale', points: 6, allow_both_bad: true, read_first: true })
  expect(ofKind(scale, 'ranking')).toMatchObject({ size: 3, allow_both_bad: false, read_first: true })
  expect(ofKind(scale, 'rating')).toMatchObject({ points: 5, allow_both_bad: false, read_first: false })
  expect(ofKind(form({ kind: 'ranking', size: 9 }), 'choice').size).toBe(2)
})

test('a key comes from its label', () => {
  expect(keyFrom('Is it true? Größe & form')).toBe('is-it-true-gro-e-form')
  expect(keyFrom('x'.repeat(60))).toHaveLength(40)
})

test('shares are percent on the screen and exact on the wire', () => {
  const share: Setting = { name: 'stop_at', kind: 'share', label: 'settings.stop_at' }
  const cap: Setting = { name: 'person_cap', kind: 'optional', label: 'settings.person_cap' }
  expect([shown(share, 0.155), stored(share, '15.5')]).toEqual(['15.5', 0.155])
  expect([shown(cap, null), stored(cap, ''), stored(cap, '7'), stored(cap, 'x')]).toEqual(['', null, 7, 'x'])
})

test('no setting is offered twice', () => {
  const names = GROUPS.flatMap(({ settings }) => settings.map(({ name }) => name))
  expect(new Set(names).size).toBe(names.length)
})
