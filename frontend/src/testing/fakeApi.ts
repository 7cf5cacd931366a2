/** A server for tests: answers `fetch` by method and path, and remembers what was asked. */
import { vi } from 'vitest'

export type Asked = { method: string; path: string; query: URLSearchParams; body: unknown; headers: Headers }
type Answer = { status?: number; body?: unknown } | 'offline'
type Handler = (asked: Asked) => Answer | Promise<Answer>

export function fakeApi(routes: Record<string, Handler>) {
  const asked: Asked[] = []
  vi.stubGlobal('fetch', async (input: string, init: RequestInit = {}) => {
    const url = new URL(input, 'http://test')
    const call: Asked = {
      method: init.method ?? 'GET',
      path: url.pathname.replace('/api/v1/', ''),
      query: url.searchParams,
      body: typeof init.body === 'string' && init.body !== '' ? JSON.parse(init.body) : undefined,
      headers: new Headers(init.headers),
    }
    asked.push(call)
    const name = Object.keys(routes).find((route) => {
      const [method, pattern = ''] = route.split(' ')
      return method === call.method && new RegExp(`^${pattern.replace(/:\w+/g, '[^/]+')}$`).test(call.path)
    })
    if (!name) throw new Error(`no route for ${call.method} ${call.path}`)
    const answer = await routes[name]?.(call)
    if (!answer || answer === 'offline') throw new TypeError('Failed to fetch')
    const { status = 200, body } = answer
    return new Response(body === undefined ? null : JSON.stringify(body), { status })
  })
  return {
    asked,
    calls: (method: string, part: string) => asked.filter((one) => one.method === method && one.path.includes(part)),
  }
}
