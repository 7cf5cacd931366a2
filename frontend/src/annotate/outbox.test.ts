import { createOutbox, type Entry, type Outbox, type Store } from 'src/annotate/outbox'
import { ApiError } from 'src/api/errors'
import type { Receipt } from 'src/api/schema'
import { beforeEach, expect, test } from 'vitest'

const fail = (status: number, code: string, retryAfter: number | null = null) =>
  new ApiError({ status, code, message: `said ${code}`, retryAfter })

const receipt = (entry: Entry, counted = true): Receipt => ({
  vote: `vote-${entry.key}`,
  key: entry.key,
  counted,
  votes: 1,
  remaining: 9,
})

let rows: Map<string, Entry>
let sent: string[]
let now: number
let answers: (ApiError | 'ok' | 'surplus')[]
let locked: boolean
let connected: boolean

function store(): Store {
  return {
    all: async () => [...rows.values()],
    put: async (entry) => void rows.set(entry.key, entry),
    remove: async (key) => void rows.delete(key),
    durable: () => true,
  }
}

function outbox(user = 'ann'): Outbox {
  return createOutbox({
    user,
    store: store(),
    now: () => now,
    connected: () => connected,
    lock: async (work) => {
      if (locked) return false
      await work()
      return true
    },
    send: async (entry) => {
      sent.push(entry.key)
      const answer = answers.shift() ?? 'ok'
      if (answer instanceof ApiError) throw answer
      return receipt(entry, answer === 'ok')
    },
  })
}

const vote = (key: string) => ({
  key,
  project: 'p',
  assignment: `a-${key}`,
  body: { choice: 'left' as const, active_ms: 5 },
})
const settled = () => new Promise((resolve) => setTimeout(resolve, 0))

async function add(box: Outbox, ...keys: string[]) {
  for (const key of keys) {
    now += 1
    await box.add(vote(key))
  }
  await settled()
}

beforeEach(() => {
  rows = new Map()
  sent = []
  now = 1_000
  answers = []
  locked = false
  connected = true
})

test('a vote is stored, sent, and forgotten once the server has it', async () => {
  const box = outbox()
  const heard: string[] = []
  box.onReceipt((entry, { vote: id }) => heard.push(`${entry.key} ${id}`))
  const stored = box.add(vote('k'))
  expect(box.getState().waiting).toHaveLength(1)
  await stored
  await settled()
  expect([sent, rows.size, box.getState().waiting.length, heard]).toEqual([['k'], 0, 0, ['k vote-k']])
})

test('a surplus vote is an accepted vote', async () => {
  answers = ['surplus']
  const box = outbox()
  await add(box, 'k')
  expect([rows.size, box.getState().refused.length]).toEqual([0, 0])
})

test.each([
  ['no answer', fail(0, 'network'), true],
  ['too many requests', fail(429, 'too_many_requests'), false],
  ['a fault of the server', fail(503, 'unavailable'), false],
])('after %s the same key is sent again, and nothing leaves before', async (_, error, offline) => {
  answers = [error]
  const box = outbox()
  await add(box, 'k', 'l')
  expect([sent, box.getState().waiting.length, box.getState().offline]).toEqual([['k'], 2, offline])
  now += 2_000
  await box.flush({ force: false })
  expect(sent).toEqual(['k'])
  now += 2_000
  await box.flush({ force: false })
  expect([sent, rows.size, box.getState().offline]).toEqual([['k', 'k', 'l'], 0, false])
})

test('the pauses double up to a minute, and a wish of the server is kept', async () => {
  answers = Array.from({ length: 8 }, () => fail(503, 'unavailable'))
  const box = outbox()
  await add(box, 'k')
  for (const pause of [3, 6, 12, 24, 48, 60, 60]) {
    now += pause * 1_000 - 1
    const before = sent.length
    await box.flush({ force: false })
    expect(sent.length).toBe(before)
    now += 1
    await box.flush({ force: false })
    expect(sent.length).toBe(before + 1)
  }
  answers = [fail(429, 'too_many_requests', 90)]
  await box.flush({ force: true })
  const before = sent.length
  now += 89_000
  await box.flush({ force: false })
  expect(sent.length).toBe(before)
})

test('signed out: everything is held until the same person is back', async () => {
  answers = [fail(401, 'not_signed_in')]
  const box = outbox()
  await add(box, 'k', 'l')
  await box.flush({ force: true })
  expect([sent, box.getState().held, box.getState().waiting.length]).toEqual([['k'], true, 2])
  await box.resume()
  expect([sent, rows.size]).toEqual([['k', 'k', 'l'], 0])
})

test.each(['key_reused', 'already_voted', 'not_found'])(
  'refused with %s: set aside with its reason, and on with the rest',
  async (code) => {
    answers = [fail(code === 'not_found' ? 404 : 409, code)]
    const box = outbox()
    await add(box, 'k', 'l')
    const { refused, waiting } = box.getState()
    expect([sent, refused.map(({ key }) => key), refused[0]?.refused?.code, waiting]).toEqual([
      ['k', 'l'],
      ['k'],
      code,
      [],
    ])
    await box.flush({ force: true })
    expect(sent).toEqual(['k', 'l'])
    await box.dismiss('k')
    expect(rows.size).toBe(0)
  },
)

test('a closed page sends at the next visit, and only the votes of who is signed in', async () => {
  answers = [fail(0, 'network')]
  await add(outbox('ann'), 'k')
  const other = outbox('ada')
  await other.load()
  await other.flush({ force: true })
  expect([sent, other.getState().waiting]).toEqual([['k'], []])
  const again = outbox('ann')
  await again.load()
  await again.flush({ force: true })
  expect([sent, rows.size]).toEqual([['k', 'k'], 0])
})

test('while another tab sends, this one waits', async () => {
  locked = true
  const box = outbox()
  await add(box, 'k')
  expect([sent, box.getState().waiting.length]).toEqual([[], 1])
})

test('undo takes an unsent vote back without asking the server', async () => {
  locked = true
  const box = outbox()
  await add(box, 'k')
  expect(await box.withdraw('k')).toEqual({ kind: 'withdrawn' })
  expect([rows.size, sent]).toEqual([0, []])
})

test('undo of a sent vote names what the server stored', async () => {
  const box = outbox()
  await add(box, 'k')
  const back = await box.withdraw('k')
  expect(back).toMatchObject({ kind: 'sent', receipt: { vote: 'vote-k' } })
})

test('a vote whose fate is unknown is not taken back: the server may have it', async () => {
  answers = [fail(0, 'network')]
  const box = outbox()
  await add(box, 'k')
  expect(await box.withdraw('k')).toEqual({ kind: 'unknown' })
  expect(rows.size).toBe(1)
})

test('without a network nothing is tried, so a vote can still be taken back; then the rest is sent', async () => {
  connected = false
  const box = outbox()
  await add(box, 'k', 'l')
  expect([sent, box.getState().offline, box.getState().waiting.length]).toEqual([[], true, 2])
  expect(await box.withdraw('l')).toEqual({ kind: 'withdrawn' })
  connected = true
  await box.flush({ force: true })
  expect([sent, rows.size, box.getState().offline]).toEqual([['k'], 0, false])
})
