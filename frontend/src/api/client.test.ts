import { apiPath, call, onSignedOut, uuid } from 'src/api/client'
import { ApiError, fieldErrors, isTemporary } from 'src/api/errors'
import { fakeApi } from 'src/testing/fakeApi'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => vi.unstubAllGlobals())

const refused = (work: Promise<unknown>): Promise<ApiError> =>
  work.then(
    () => Promise.reject(new Error('it was not refused')),
    (error: unknown) => (error instanceof ApiError ? error : Promise.reject(error)),
  )

test('the server’s code, message and details become an ApiError', async () => {
  fakeApi({
    'POST jobs': () => ({
      status: 400,
      body: { code: 'bad_config', message: 'No.', details: { 'optim.learning_rate': ['must be positive'] } },
    }),
  })
  const error = await refused(call('POST', 'jobs', { body: {} }))
  expect([error.status, error.code, error.message]).toEqual([400, 'bad_config', 'No.'])
  expect(fieldErrors(error)).toEqual({ 'optim.learning_rate': 'must be positive' })
})

test('an answer that is not ours still has a code', async () => {
  vi.stubGlobal(
    'fetch',
    async () => new Response('<h1>Bad gateway</h1>', { status: 502, headers: { 'Retry-After': '7' } }),
  )
  const error = await refused(call('GET', 'x'))
  expect([error.code, error.message, error.retryAfter]).toEqual(['http_502', '', 7])
  expect(isTemporary(error)).toBe(true)
})

test('no answer, and an answer that is cut, are network errors', async () => {
  fakeApi({ 'GET x': () => 'offline' })
  expect((await refused(call('GET', 'x'))).code).toBe('network')
  vi.stubGlobal('fetch', async () => ({
    ok: true,
    status: 201,
    headers: new Headers(),
    text: () => Promise.reject(new TypeError('cut')),
  }))
  const error = await refused(call('POST', 'x'))
  expect([error.status, isTemporary(error)]).toEqual([0, true])
})

test('the CSRF token is read at send time, and the key of a write is sent', async () => {
  const api = fakeApi({ 'POST x': () => ({ status: 204 }) })
  // biome-ignore lint/suspicious/noDocumentCookie: what the server's header does in a browser.
  document.cookie = 'csrftoken=first'
  await call('POST', 'x')
  // biome-ignore lint/suspicious/noDocumentCookie: what the server's header does in a browser.
  document.cookie = 'csrftoken=second'
  await call('POST', 'x', { idempotencyKey: 'k' })
  expect(api.asked.map(({ headers }) => headers.get('X-CSRFToken'))).toEqual(['first', 'second'])
  expect(api.asked[1]?.headers.get('Idempotency-Key')).toBe('k')
})

test('a stale CSRF token is renewed once', async () => {
  let tries = 0
  const api = fakeApi({
    'GET session': () => ({ body: { user: null } }),
    'POST x': () => (tries++ === 0 ? { status: 403, body: { code: 'csrf', message: '' } } : { body: { ok: true } }),
  })
  expect(await call('POST', 'x')).toEqual({ ok: true })
  expect(api.asked.map(({ path }) => path)).toEqual(['x', 'session', 'x'])
})

test('a 401 says that the person is signed out, except from the session itself', async () => {
  const heard = vi.fn()
  const stop = onSignedOut(heard)
  fakeApi({
    'GET x': () => ({ status: 401, body: { code: 'not_signed_in', message: '' } }),
    'POST session': () => ({ status: 401, body: { code: 'bad_credentials', message: '' } }),
  })
  await refused(call('POST', 'session'))
  expect(heard).not.toHaveBeenCalled()
  await refused(call('GET', 'x'))
  expect(heard).toHaveBeenCalledOnce()
  stop()
})

test('empty parameters are left out of an address', () => {
  expect(apiPath('a/b', { q: '', cursor: null, limit: 5, on: false })).toBe('/api/v1/a/b?limit=5&on=false')
})

test('a key is a UUID of version 4', () => {
  expect(uuid()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  expect(uuid()).not.toBe(uuid())
})
