import { bytes, duration, estimateText, measured, relativeTime } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { expect, test } from 'vitest'

const estimate = { value: 0.8488, low: 0.83149, high: 0.8661, n: 500, reason: null }

test('value and interval have the same digits', () => {
  expect(estimateText(estimate, 'coefficient')).toEqual({ value: '0.849', range: '[0.831, 0.866]', why: null })
  expect(estimateText(estimate, 'percent')).toEqual({ value: '84.9 %', range: '[83.1, 86.6]', why: null })
})

test('a negative coefficient has a minus sign, not a hyphen', () => {
  expect(estimateText({ ...estimate, value: -0.1, low: -0.2, high: 0 }, 'coefficient')).toMatchObject({
    value: '−0.100',
    range: '[−0.200, 0.000]',
  })
})

test('undefined is a dash with its reason, and never NaN', () => {
  const none = { value: null, low: null, high: null, n: 0, reason: 'no_overlap' }
  expect(estimateText(none, 'coefficient')).toEqual({
    value: '–',
    range: null,
    why: 'Undefined, because no comparison has two votes yet.',
  })
  expect(estimateText({ ...none, value: Number.NaN }, 'percent').value).toBe('–')
  expect(estimateText({ ...none, reason: 'brand_new' }, 'percent').why).toBe('Undefined, because brand new.')
})

test('a value without interval says why', () => {
  const text = estimateText({ ...estimate, low: null, high: null, reason: 'too_few_groups' }, 'percent')
  expect(text).toEqual({ value: '84.9 %', range: null, why: 'No interval, because there are too few comparisons.' })
})

test('durations read as people say them', () => {
  expect([0, 41.2, 250, 600, 3599, 3600, 7800, 86_400, 100_000].map(duration)).toEqual([
    '0 s',
    '41 s',
    '4 min 10 s',
    '10 min',
    '60 min',
    '1 h',
    '2 h 10 min',
    '1 d',
    '1 d 4 h',
  ])
  expect([duration(null), duration(Number.POSITIVE_INFINITY)]).toEqual(['–', '–'])
})

test('measured numbers keep about four digits', () => {
  expect([0, Math.LN2, 0.00005, -2.24567, 112, 1840.2, 0.0123456, null].map(measured)).toEqual([
    '0',
    '0.693',
    '5.00e-5',
    '−2.246',
    '112',
    '1840',
    '0.0123',
    '–',
  ])
})

test('sizes and times', () => {
  expect([bytes(999), bytes(269_060_552), bytes(null)]).toEqual(['999 B', '269 MB', '–'])
  const now = Date.parse('2026-05-01T12:00:00Z')
  expect(relativeTime('2026-05-01T11:59:40Z', now)).toBe('just now')
  expect(relativeTime('2026-05-01T11:55:00Z', now)).toMatch(/^5 min/)
})

test('plurals and numbers in messages', () => {
  expect([t('home.votes', { n: 1 }), t('home.votes', { n: 1200 })]).toEqual(['1 vote', '1,200 votes'])
})
