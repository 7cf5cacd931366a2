/** Where the outbox keeps its entries, and who may send: IndexedDB and a lock that all tabs share. */
import { createStore, del, get, set, update, values } from 'idb-keyval'
import { createOutbox, type Entry, type Lock, type Outbox, type Store } from 'src/annotate/outbox'
import { uuid } from 'src/api/client'
import { sendVote } from 'src/api/queries'

const LOCK_NAME = 'winnow-outbox'
/** A tab that died holding the row's lock blocks the others for at most this long. */
const LOCK_MS = 20_000
const TICK_MS = 3_000

export function deviceStore(): Store {
  const memory = new Map<string, Entry>()
  let durable = typeof indexedDB !== 'undefined'
  const database = durable ? createStore('winnow', 'outbox') : undefined

  async function attempt<T>(work: () => Promise<T>, otherwise: () => T): Promise<T> {
    if (!durable) return otherwise()
    try {
      return await work()
    } catch {
      // Private windows and full disks refuse: the votes stay in this page, and the screen says so.
      durable = false
      return otherwise()
    }
  }

  return {
    all: async () => {
      const stored = await attempt(
        () => values<Entry>(database),
        () => [],
      )
      return [...stored, ...memory.values()]
    },
    put: (entry) =>
      attempt(
        () => set(entry.key, entry, database),
        () => void memory.set(entry.key, entry),
      ),
    remove: async (key) => {
      memory.delete(key)
      await attempt(
        () => del(key, database),
        () => undefined,
      )
    },
    durable: () => durable,
  }
}

/** Web Locks need a secure context; on plain HTTP a row with an expiry does the same. */
export function tabLock(): Lock {
  if (navigator.locks) {
    return (work) =>
      navigator.locks.request(LOCK_NAME, { ifAvailable: true }, async (lock) => {
        if (lock === null) return false
        await work()
        return true
      })
  }
  if (typeof indexedDB === 'undefined') return async (work) => work().then(() => true)
  const me = uuid()
  const database = createStore('winnow-lock', 'lock')
  return async (work) => {
    type Row = { holder: string; until: number }
    await update<Row>(
      LOCK_NAME,
      (row) => (row && row.until > Date.now() && row.holder !== me ? row : { holder: me, until: Date.now() + LOCK_MS }),
      database,
    )
    if ((await get<Row>(LOCK_NAME, database))?.holder !== me) return false
    try {
      await work()
    } finally {
      await del(LOCK_NAME, database)
    }
    return true
  }
}

let current: Outbox | null = null

/** The outbox of the signed-in person. Starting it sends what an earlier visit left; the votes of others stay put. */
export function outboxOf(user: string): Outbox {
  if (current?.user === user) return current
  const outbox = createOutbox({
    user,
    store: deviceStore(),
    send: (entry) => sendVote(entry.assignment, entry.key, entry.body),
    lock: tabLock(),
    now: () => Date.now(),
    connected: () => navigator.onLine,
  })
  current = outbox
  const flush = (force: boolean) => {
    if (current === outbox && outbox.getState().waiting.length > 0) void outbox.flush({ force })
  }
  void outbox.load().then(() => flush(true))
  window.addEventListener('online', () => flush(true))
  window.addEventListener('focus', () => flush(false))
  window.addEventListener('beforeunload', (event) => {
    if (current === outbox && outbox.getState().waiting.length > 0) event.preventDefault()
  })
  setInterval(() => flush(false), TICK_MS)
  return outbox
}

/** Before another person takes over this page: what waits stays on the device for its owner, and does not hold them back. */
export function closeOutbox(): void {
  current = null
}
