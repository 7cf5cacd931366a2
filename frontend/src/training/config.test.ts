import type { Field } from 'src/api/schema'
import {
  asText,
  changedFields,
  draftOf,
  faultOf,
  fitting,
  gridOf,
  gridSize,
  isHidden,
  merge,
  overridesOf,
  typed,
} from 'src/training/config'
import { expect, test } from 'vitest'

function field(path: string, more: Partial<Field> = {}): Field {
  const text = { label: path, help: '', unit: '', section: path.split('.')[0] ?? '', choices: [], choice_help: [] }
  const bounds = { low: null, low_excluded: false, high: null, high_excluded: false }
  return { path, type: 'number', optional: false, default: null, ...text, ...bounds, ...more }
}

const RATE = field('optim.learning_rate', { low: 0, low_excluded: true })
const STEPS = field('stop.max_steps', { type: 'integer', optional: true, low: 1 })
const ADAPTER = field('adapter', { type: 'section', optional: true })
const RANK = field('adapter.rank', { type: 'integer', default: 16 })
const FIELDS = [RATE, RANK, STEPS, ADAPTER]
const BASE = { optim: { learning_rate: 1e-5 }, adapter: { rank: 16 }, stop: { max_steps: null } }

test('only what differs is sent, as the type that the server expects', () => {
  const draft = { 'optim.learning_rate': '2e-5', 'adapter.rank': ' 16 ', 'stop.max_steps': '40' }
  const changed = changedFields(FIELDS, BASE, draft)
  expect(overridesOf(changed, draft)).toEqual({ optim: { learning_rate: 2e-5 }, stop: { max_steps: 40 } })
})

test('a part that is turned off is sent as null, and what is in it not at all', () => {
  const draft = { adapter: 'false', 'adapter.rank': '64' }
  expect(overridesOf(changedFields(FIELDS, BASE, draft), draft)).toEqual({ adapter: null })
  expect(isHidden(RANK, FIELDS, BASE, draft)).toBe(true)
})

test('a part that is turned on is there with the settings that were typed', () => {
  const base = { ...BASE, adapter: null }
  const draft = { adapter: 'true', 'adapter.rank': '8' }
  expect(overridesOf(changedFields(FIELDS, base, draft), draft)).toEqual({ adapter: { rank: 8 } })
  const usual = { adapter: 'true' }
  expect(overridesOf(changedFields(FIELDS, base, usual), usual)).toEqual({ adapter: {} })
})

test('text that is no number goes to the server as it is', () => {
  expect(typed(RATE, 'fast')).toBe('fast')
  expect(typed(STEPS, '')).toBeNull()
  expect(typed(field('x', { type: 'texts' }), 'a, b,,')).toEqual(['a', 'b'])
  expect(asText(field('x', { type: 'texts' }), ['a', 'b'])).toBe('a, b')
})

test('bounds are told before the server is asked, excluded ends too', () => {
  expect(faultOf(RATE, '0')).toBe('low')
  expect(faultOf(RATE, '1e-9')).toBeNull()
  expect(faultOf(RATE, '')).toBe('empty')
  expect(faultOf(STEPS, '')).toBeNull()
  expect(faultOf(STEPS, '0')).toBe('low')
  expect(faultOf(STEPS, '1.5')).toBe('integer')
  expect(faultOf(STEPS, 'many')).toBe('number')
  expect(faultOf(field('x', { high: 1 }), '1')).toBeNull()
  expect(faultOf(field('x', { high: 1, high_excluded: true }), '1')).toBe('high')
})

test('a preset and a machine are laid over the defaults as the server lays them', () => {
  const defaults = { dpo: { beta: 0.1, link: 'nll' }, precision: { dtype: 'fp32' } }
  const machine = { precision: { dtype: 'bf16' }, memory: { micro_tokens: 1 } }
  expect(merge(merge(defaults, { dpo: { link: 'ipo' } }), fitting(machine, defaults))).toEqual({
    dpo: { beta: 0.1, link: 'ipo' },
    precision: { dtype: 'bf16' },
  })
})

test('a grid has as many jobs as its points', () => {
  const axes = [
    { path: 'optim.learning_rate', text: '1e-5, 2e-5,' },
    { path: 'adapter.rank', text: '8, 16, 32' },
  ]
  expect(gridSize(axes, FIELDS)).toBe(6)
  expect(gridOf(axes, FIELDS)).toEqual({ 'optim.learning_rate': [1e-5, 2e-5], 'adapter.rank': [8, 16, 32] })
  expect(gridSize([{ path: '', text: '1' }], FIELDS)).toBe(0)
})

test('an address can ask for settings, and what it says of others changes nothing', () => {
  const draft = draftOf(['optim.learning_rate=2e-5', 'no.such=1', 'broken', '=1'])
  expect(draft).toEqual({ 'optim.learning_rate': '2e-5', 'no.such': '1' })
  expect(changedFields(FIELDS, BASE, draft)).toEqual([RATE])
})
