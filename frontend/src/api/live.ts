/** Live data by cursor: one cache entry that grows, asked again every 2 s while seen and 30 s while hidden. */
import { type QueryClient, type QueryKey, queryOptions } from '@tanstack/react-query'

const VISIBLE_MS = 2_000
const HIDDEN_MS = 30_000
const LONGEST_MS = 60_000
/** Pages read in one go after a long absence. */
const MAX_PAGES = 50

/** The pause before the next question; doubles with each failure in a row. */
export function pollPause(failures: number, hidden: boolean, base: number = VISIBLE_MS): number {
  const pause = hidden ? HIDDEN_MS : base
  return Math.max(pause, Math.min(pause * 2 ** failures, LONGEST_MS))
}

type PollState<T> = {
  state: { data: T | undefined; fetchFailureCount: number; status: string; errorUpdateCount: number }
}

/** `refetchInterval` for a row that changes while `active(row)`. */
export function pollWhile<T>(active: (data: T) => boolean, base: number = VISIBLE_MS) {
  return (query: PollState<T>): number | false => {
    const { data, status, errorUpdateCount, fetchFailureCount } = query.state
    if (data !== undefined && !active(data)) return false
    const failures = status === 'error' ? Math.max(1, errorUpdateCount) : fetchFailureCount
    return pollPause(failures, document.hidden, base)
  }
}

export type Page<Item> = { items: Item[]; next_after: number | null; terminal: boolean }
export type Feed<Item> = { items: Item[]; after: number | null; terminal: boolean }

/** Reads on from what the cache holds. A cursor that does not move ends the reading. */
export async function readOn<Item>(
  have: Feed<Item> | undefined,
  read: (after: number | null) => Promise<Page<Item>>,
): Promise<Feed<Item>> {
  let items = have?.items ?? []
  let after = have?.after ?? null
  for (let pages = 0; pages < MAX_PAGES; pages += 1) {
    const page = await read(after)
    if (page.items.length > 0) items = [...items, ...page.items]
    const moved = page.next_after !== null && page.next_after !== after
    if (moved) after = page.next_after
    if (page.items.length === 0 || !moved) return { items, after, terminal: page.terminal }
  }
  return { items, after, terminal: false }
}

export function feedOptions<Item>(init: {
  client: QueryClient
  key: QueryKey
  /** False once nothing more can come, unless the feed itself has not said so yet. */
  active: boolean
  read: (after: number | null, signal: AbortSignal) => Promise<Page<Item>>
}) {
  const { client, key, active, read } = init
  return queryOptions({
    queryKey: key,
    queryFn: ({ signal }) => readOn<Item>(client.getQueryData<Feed<Item>>(key), (after) => read(after, signal)),
    staleTime: 0,
    structuralSharing: false,
    refetchInterval: pollWhile<Feed<Item>>((feed) => active || !feed.terminal),
    refetchIntervalInBackground: true,
  })
}
