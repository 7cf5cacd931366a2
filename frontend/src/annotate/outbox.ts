/**
 * Votes on their way to the server. A vote is written here first, shown as done, then sent until the server has answered;
 * the entry's key is the request's Idempotency-Key, so sending twice stores one vote. Knows no screen.
 */

import { ApiError, isTemporary } from 'src/api/errors'
import type { Receipt, VoteRequest } from 'src/api/schema'

export type Entry = {
  key: string
  user: string
  project: string
  assignment: string
  /** The whole answer, as it is sent. */
  body: VoteRequest
  created_at: number
  /** Once true, the server may have the vote although no answer came. */
  attempted: boolean
  refused: { code: string; message: string } | null
}

export type Store = {
  all: () => Promise<Entry[]>
  put: (entry: Entry) => Promise<void>
  remove: (key: string) => Promise<void>
  /** False where entries do not outlive the page. */
  durable: () => boolean
}

/** Runs the work if no other tab is sending; answers whether it ran. */
export type Lock = (work: () => Promise<void>) => Promise<boolean>

export type OutboxState = {
  waiting: readonly Entry[]
  refused: readonly Entry[]
  /** No answer at the last try. */
  offline: boolean
  /** The server asked for a sign-in; nothing is sent until `resume`. */
  held: boolean
  durable: boolean
}

export type Withdrawal = { kind: 'withdrawn' } | { kind: 'sent'; receipt: Receipt } | { kind: 'unknown' }

const FIRST_PAUSE_MS = 3_000
const LONGEST_PAUSE_MS = 60_000

export type Outbox = ReturnType<typeof createOutbox>

export function createOutbox(init: {
  user: string
  store: Store
  send: (entry: Entry) => Promise<Receipt>
  lock: Lock
  now: () => number
  /** False while the browser knows that there is no network: then nothing is tried, so that it can still be taken back. */
  connected: () => boolean
}) {
  const { user, store, send, lock, now, connected } = init
  const listeners = new Set<() => void>()
  const receiptListeners = new Set<(entry: Entry, receipt: Receipt) => void>()
  const receipts = new Map<string, Receipt>()
  let entries: Entry[] = []
  let failures = 0
  let notBefore = 0
  let offline = false
  let held = false
  let running: Promise<void> | null = null
  let again = false
  let state: OutboxState = { waiting: [], refused: [], offline, held, durable: true }

  function publish(): void {
    state = {
      waiting: entries.filter((entry) => entry.refused === null),
      refused: entries.filter((entry) => entry.refused !== null),
      offline,
      held,
      durable: store.durable(),
    }
    for (const listener of listeners) listener()
  }

  async function reload(): Promise<void> {
    const stored = (await store.all()).filter((entry) => entry.user === user && !receipts.has(entry.key))
    const known = new Set(stored.map((entry) => entry.key))
    // What was added while the store was being read is not in the answer yet.
    const added = entries.filter(
      (entry) => !known.has(entry.key) && !entry.attempted && entry.refused === null && adding.has(entry.key),
    )
    entries = [...stored, ...added].sort((one, other) => one.created_at - other.created_at)
    publish()
  }

  const adding = new Set<string>()

  async function update(entry: Entry, change: Partial<Entry>): Promise<Entry> {
    const changed = { ...entry, ...change }
    entries = entries.map((other) => (other.key === entry.key ? changed : other))
    await store.put(changed)
    return changed
  }

  async function drop(key: string): Promise<void> {
    entries = entries.filter((entry) => entry.key !== key)
    await store.remove(key)
    publish()
  }

  /** Sends one entry. Answers whether the next one may be tried now. */
  async function sendOne(waiting: Entry): Promise<boolean> {
    const entry = await update(waiting, { attempted: true })
    try {
      const receipt = await send(entry)
      receipts.set(entry.key, receipt)
      failures = 0
      offline = false
      await drop(entry.key)
      for (const listener of receiptListeners) listener(entry, receipt)
      return true
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      if (error.status === 401) {
        held = true
        publish()
        return false
      }
      if (isTemporary(error)) {
        failures += 1
        offline = error.status === 0
        const pause = Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS)
        notBefore = now() + Math.max(pause, (error.retryAfter ?? 0) * 1000)
        publish()
        return false
      }
      offline = false
      await update(entry, { refused: { code: error.code, message: error.message } })
      publish()
      return true
    }
  }

  async function sendAll(): Promise<void> {
    await reload()
    for (;;) {
      const next = entries.find((entry) => entry.refused === null)
      if (!next || held || !connected() || !(await sendOne(next))) return
    }
  }

  /** Sends what waits. A call during a flush makes it look once more; `force` ignores the back-off. */
  function flush({ force }: { force: boolean }): Promise<void> {
    if (force) notBefore = 0
    if (running) {
      again = true
      return running
    }
    if (held || now() < notBefore) return Promise.resolve()
    if (!connected()) {
      offline = true
      publish()
      return Promise.resolve()
    }
    running = (async () => {
      try {
        do {
          again = false
          await lock(sendAll)
        } while (again && !held && now() >= notBefore)
      } finally {
        running = null
      }
    })()
    return running
  }

  return {
    user,
    getState: () => state,
    subscribe(listener: () => void): () => void {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    onReceipt(listener: (entry: Entry, receipt: Receipt) => void): () => void {
      receiptListeners.add(listener)
      return () => receiptListeners.delete(listener)
    },

    load: reload,

    /** Resolves when the entry is stored on this device; sending starts by itself. */
    async add(vote: Pick<Entry, 'key' | 'project' | 'assignment' | 'body'>): Promise<void> {
      const entry: Entry = { ...vote, user, created_at: now(), attempted: false, refused: null }
      adding.add(entry.key)
      entries = [...entries, entry]
      publish()
      await store.put(entry)
      adding.delete(entry.key)
      publish()
      void flush({ force: false })
    },

    flush,

    /** After a sign-in of the same person. */
    resume(): Promise<void> {
      held = false
      publish()
      return flush({ force: true })
    },

    /** Takes a vote back before it is sent, or says what the server answered. */
    async withdraw(key: string): Promise<Withdrawal> {
      if (running && entries.some((entry) => entry.key === key && entry.attempted)) await running
      const receipt = receipts.get(key)
      if (receipt) return { kind: 'sent', receipt }
      const entry = entries.find((other) => other.key === key)
      if (!entry || (entry.attempted && entry.refused === null)) return { kind: 'unknown' }
      await drop(key)
      return { kind: 'withdrawn' }
    },

    /** Forgets a refused entry once the person has seen why. */
    dismiss: drop,
  }
}
