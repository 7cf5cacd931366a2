import { sawActivity, spent, startTime, wentAway } from 'src/annotate/activeTime'
import { emptyQueue, type QueueEvent, queueReducer, wantsMore } from 'src/annotate/queue'
import type { Queue } from 'src/api/schema'
import { task } from 'src/testing/tasks'
import { expect, test } from 'vitest'

const taken = (names: string[], answeredBefore = 0, done: Queue['done'] = null): QueueEvent => ({
  kind: 'taken',
  answeredBefore,
  queue: { items: names.map((name) => task(0, { assignment: name })), done, votes: 4, remaining: 6, lease_minutes: 15 },
})

const run = (...events: QueueEvent[]) => events.reduce(queueReducer, emptyQueue())
const names = (state: ReturnType<typeof run>) => state.tasks.map(({ assignment }) => assignment)

test('new tasks go behind those in hand, whatever order the server lists', () => {
  const state = run(taken(['a', 'b']), taken(['c', 'b', 'a']))
  expect(names(state)).toEqual(['a', 'b', 'c'])
  expect([state.votes, state.remaining, state.leaseMinutes]).toEqual([4, 6, 15])
})

test('a task that is answered here does not come back while its vote is unsent', () => {
  const state = run(taken(['a', 'b']), { kind: 'answered', assignment: 'a' }, taken(['a', 'b', 'c'], 1))
  expect(names(state)).toEqual(['b', 'c'])
})

test('an undone task is first again and may be answered anew', () => {
  const state = run(
    taken(['a', 'b']),
    { kind: 'answered', assignment: 'a' },
    { kind: 'returned', task: task(0, { assignment: 'a' }) },
  )
  expect(names(state)).toEqual(['a', 'b'])
  expect(state.answered.has('a')).toBe(false)
})

test('a task in hand keeps its identity unless its lease moved', () => {
  const state = run(taken(['a']))
  const again = queueReducer(state, taken(['a']))
  expect(again.tasks[0]).toBe(state.tasks[0])
})

test('more is wanted until four are in hand, and again after an answer', () => {
  expect(wantsMore(run())).toBe(true)
  const full = run(taken(['a', 'b', 'c', 'd']))
  expect(wantsMore(full)).toBe(false)
  expect(wantsMore(queueReducer(full, { kind: 'answered', assignment: 'a' }))).toBe(true)
})

test('a question that brought nothing new is not asked again at once', () => {
  const dry = run(taken(['a']), taken(['a']))
  expect(wantsMore(dry)).toBe(false)
  expect(wantsMore(queueReducer(dry, { kind: 'answered', assignment: 'a' }))).toBe(true)
})

test('an answer given during the question makes it worth asking again', () => {
  const state = run(taken(['a', 'b']), { kind: 'answered', assignment: 'a' }, taken(['a', 'b'], 0))
  expect(wantsMore(state)).toBe(true)
})

test('a failure stops the asking until the retry', () => {
  const failed = run({ kind: 'failed', error: new Error('x') })
  expect([wantsMore(failed), failed.failures]).toEqual([false, 1])
  expect(wantsMore(queueReducer(failed, { kind: 'retry' }))).toBe(true)
})

test('after the browser’s cache only the task on screen is kept', () => {
  expect(names(run(taken(['a', 'b', 'c']), { kind: 'restored' }))).toEqual(['a'])
})

test('time counts while the page is seen, at most a minute after the last sign of the person', () => {
  let time = startTime(0, true)
  expect(spent(time, 20_000)).toBe(20_000)
  time = sawActivity(time, 20_000)
  expect(spent(time, 20_000 + 600_000)).toBe(80_000)
  time = wentAway(time, 30_000)
  expect(spent(time, 500_000)).toBe(30_000)
  time = sawActivity(time, 500_000)
  expect(spent(time, 501_000)).toBe(31_000)
})
