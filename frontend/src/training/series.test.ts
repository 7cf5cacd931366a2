import { joinCurves } from 'src/api/jobsApi'
import type { Curve, JobCurves } from 'src/api/schema'
import { flatten, nest } from 'src/training/config'
import { charts, overlay, thinned } from 'src/training/series'
import { align, smooth } from 'src/ui/charts/curves'
import { expect, test } from 'vitest'

/** A curve as the server gives it, with a point a second. */
const curve = (name: string, values: Record<number, number>): Curve => {
  const steps = Object.keys(values).map(Number)
  return { name, points: steps.length, steps, times: steps, values: Object.values(values) }
}
const answer = (curves: Curve[], after: number): JobCurves => {
  const steps = curves.flatMap((one) => one.steps)
  const [first_step, last_step] = steps.length > 0 ? [Math.min(...steps), Math.max(...steps)] : [null, null]
  return { curves, marks: [], next_after: after, first_step, last_step, stride: 1, terminal: false }
}

test('a second attempt replaces the steps that it repeats', () => {
  const first = joinCurves(undefined, answer([curve('train/loss', { 1: 0.7, 2: 0.6, 3: 0.55 })], 3))
  const joined = joinCurves(first, answer([curve('train/loss', { 2: 0.61, 3: 0.5, 4: 0.4 })], 6))
  expect(joined.after).toBe(6)
  expect(thinned(joined.curves).get('train/loss')).toMatchObject({ xs: [1, 2, 3, 4], ys: [0.7, 0.61, 0.5, 0.4] })
})

test('what was read before stays where nothing new was read, and new metrics join', () => {
  const first = joinCurves(undefined, answer([curve('train/loss', { 1: 0.7, 2: 0.6 })], 2))
  const idle = joinCurves(first, answer([], 2))
  expect(idle.curves).toEqual(first.curves)
  const joined = joinCurves(idle, answer([curve('train/loss', { 3: 0.5 }), curve('eval/loss', { 3: 0.6 })], 4))
  expect(joined.curves.map(({ name, steps }) => [name, steps])).toEqual([
    ['train/loss', [1, 2, 3]],
    ['eval/loss', [3]],
  ])
})

test('a job without a metric keeps its place, so that a colour is one job in every chart', () => {
  const [chart] = overlay(
    [
      { label: '#1', curves: [] },
      { label: '#2', curves: [curve('train/loss', { 1: 1 })] },
    ],
    [],
  )
  expect(chart?.curves.map(({ name, xs }) => [name, xs])).toEqual([
    ['#1', []],
    ['#2', [1]],
  ])
})

test('one chart a quantity, the most telling first, test figures left out', () => {
  const names = ['optim/learning_rate', 'rollout/kl', 'eval/loss', 'train/loss', 'train/accuracy', 'test/accuracy']
  const series = thinned(names.map((name) => curve(name, { 1: 0.5 })))
  const result = charts(series, [{ name: 'train/loss', unit: 'nats', help: '', better: 'lower' }])
  expect(result.map(({ title }) => title)).toEqual(['Loss', 'Accuracy', 'KL', 'Learning rate'])
  expect(result[0]).toMatchObject({
    unit: 'nats',
    curves: [
      { name: 'train/loss', sparse: false },
      { name: 'eval/loss', sparse: true },
    ],
  })
})

test('the interval of the accuracy is a band, not two more curves', () => {
  const series = thinned([
    curve('eval/accuracy', { 10: 0.6 }),
    curve('eval/accuracy_low', { 5: 0.1, 10: 0.5 }),
    curve('eval/accuracy_high', { 10: 0.7 }),
    curve('eval/pairs', { 10: 40 }),
  ])
  expect(charts(series, [])).toMatchObject([
    { title: 'Accuracy', curves: [{ name: 'eval/accuracy' }], band: { low: [0.5], high: [0.7] } },
  ])
})

test('ends of any interval are a band, and parts of a figure are shown on demand', () => {
  const series = thinned([
    curve('eval/brier', { 10: 0.2 }),
    curve('eval/brier_low', { 10: 0.1 }),
    curve('eval/brier_high', { 10: 0.3 }),
    curve('eval/accuracy_length_large', { 10: 0.8 }),
    curve('eval/tie_low', { 10: 0.1 }),
  ])
  expect(charts(series, [])).toMatchObject([
    { title: 'Brier', secondary: false, band: { low: [0.1], high: [0.3] } },
    { title: 'Accuracy length large', secondary: true },
    { title: 'Tie low', secondary: false },
  ])
})

test('smoothing keeps a constant, and the first point', () => {
  const steady = Array(20).fill(2)
  expect(smooth(steady, 0.9)).toEqual(steady.map((value) => expect.closeTo(value, 12)))
  expect(smooth([5, ...steady], 0.5)[0]).toBe(5)
  expect(smooth([1, 2], 0.9)).toEqual([1, 2])
})

test('curves with different steps share one axis', () => {
  expect(
    align([
      { xs: [1, 2, 3], ys: [1, 2, 3] },
      { xs: [2, 4], ys: [9, 8] },
    ]),
  ).toEqual([
    [1, 2, 3, 4],
    [1, 2, 3, null],
    [null, 9, null, 8],
  ])
})

test('a config goes to paths and back', () => {
  const config = { method: 'dpo', optim: { learning_rate: 5e-5, betas: [0.9, 0.999] }, dpo: { beta: 0.1 } }
  expect(nest(flatten(config))).toEqual(config)
})
