/** The only caller of `fetch`. Speaks JSON to `/api/v1/`, throws `ApiError`, and says when the person is signed out. */
import { ApiError, fromAnswer, networkError } from 'src/api/errors'

export const API_BASE = '/api/v1/'

type Query = Record<string, string | number | boolean | null | undefined>
export type CallOptions = {
  query?: Query
  body?: unknown
  /** Sent as it is, for bodies that are not JSON; a file is read by the browser as it goes. */
  raw?: { body: string | Blob; type: string }
  idempotencyKey?: string
  signal?: AbortSignal
  /** Lets the request outlive the page. */
  keepalive?: boolean
}

const signedOutListeners = new Set<() => void>()

/** Called on a 401 of any call except the session's own. Returns how to stop listening. */
export function onSignedOut(listener: () => void): () => void {
  signedOutListeners.add(listener)
  return () => signedOutListeners.delete(listener)
}

/** Read at send time: Django rotates the token at sign-in. */
function csrfToken(): string {
  return /(?:^|;\s*)(?:__Secure-|__Host-)?csrftoken=([^;]+)/.exec(document.cookie)?.[1] ?? ''
}

export function apiPath(path: string, query: Query = {}): string {
  const params = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== '') params.set(name, String(value))
  }
  const search = params.toString()
  return `${API_BASE}${path}${search ? `?${search}` : ''}`
}

export async function call<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
  try {
    return await attempt<T>(method, path, options)
  } catch (error) {
    // The token's cookie was gone or from before a sign-in elsewhere. Nothing was done; a new one, then once more.
    if (!(error instanceof ApiError) || error.code !== 'csrf') throw error
    await attempt('GET', 'session', { signal: options.signal })
    return attempt<T>(method, path, options)
  }
}

async function attempt<T>(method: string, path: string, options: CallOptions): Promise<T> {
  const headers: Record<string, string> = { Accept: 'application/json' }
  let body: string | Blob | undefined
  if (options.raw) {
    headers['Content-Type'] = options.raw.type
    body = options.raw.body
  } else if (options.body !== undefined) {
    headers['Content-Type'] = 'application/json'
    body = JSON.stringify(options.body)
  }
  if (method !== 'GET') headers['X-CSRFToken'] = csrfToken()
  if (options.idempotencyKey) headers['Idempotency-Key'] = options.idempotencyKey

  let answer: Response
  try {
    answer = await fetch(apiPath(path, options.query), {
      method,
      headers,
      body,
      credentials: 'same-origin',
      signal: options.signal,
      keepalive: options.keepalive,
    })
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error
    throw networkError()
  }
  const text = await answer.text().catch(() => {
    // The status came and the body did not: whether the server acted is unknown, so it counts as no answer.
    throw networkError()
  })
  const data = parse(text)
  if (!answer.ok) {
    if (answer.status === 401 && path !== 'session') for (const listener of signedOutListeners) listener()
    throw fromAnswer(answer.status, data, answer.headers)
  }
  return data as T
}

function parse(text: string): unknown {
  if (text === '') return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** RFC 4122 version 4 from `getRandomValues`: `randomUUID` is missing on plain HTTP. */
export function uuid(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}
