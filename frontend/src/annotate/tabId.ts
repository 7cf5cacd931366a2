/** A name for this tab that survives a reload and is never shared: a duplicated tab takes a new one. */
import { uuid } from 'src/api/client'

const STORED = 'winnow-tab'
/** A reloaded page may ask before its predecessor has let go. */
const PATIENCE_MS = 300

let name: Promise<string> | null = null

export function tabId(): Promise<string> {
  name ??= claim()
  return name
}

async function claim(): Promise<string> {
  const stored = sessionStorage.getItem(STORED)
  if (stored && (await hold(stored))) return stored
  const fresh = uuid()
  sessionStorage.setItem(STORED, fresh)
  await hold(fresh)
  return fresh
}

function hold(id: string): Promise<boolean> {
  return navigator.locks ? holdLock(id) : holdByAsking(id)
}

function holdLock(id: string): Promise<boolean> {
  return new Promise((resolve) => {
    const patience = new AbortController()
    const timer = setTimeout(() => patience.abort(), PATIENCE_MS)
    navigator.locks
      .request(`${STORED}-${id}`, { signal: patience.signal }, () => {
        clearTimeout(timer)
        resolve(true)
        // Held for as long as the page lives.
        return new Promise(() => undefined)
      })
      .catch(() => resolve(false))
  })
}

/** Plain HTTP has no Web Locks: ask the other tabs who has the name. */
function holdByAsking(id: string): Promise<boolean> {
  if (typeof BroadcastChannel === 'undefined') return Promise.resolve(true)
  const channel = new BroadcastChannel(STORED)
  return new Promise((resolve) => {
    let mine = false
    channel.onmessage = (event: MessageEvent<{ ask?: string; taken?: string }>) => {
      if (mine && event.data.ask === id) channel.postMessage({ taken: id })
      if (!mine && event.data.taken === id) {
        channel.close()
        resolve(false)
      }
    }
    channel.postMessage({ ask: id })
    setTimeout(() => {
      mine = true
      resolve(true)
    }, PATIENCE_MS)
  })
}
