/** Keeps the queue filled, its leases alive, and gives back what was never seen. */
import { useCallback, useEffect, useReducer, useRef } from 'react'
import type { OutboxState } from 'src/annotate/outbox'
import { ASKED, emptyQueue, queueReducer, wantsMore } from 'src/annotate/queue'
import { releaseTasks, renewLeases, takeTasks } from 'src/api/queries'

const RETRY_MS = 3_000
const LONGEST_RETRY_MS = 60_000

export function useQueue(slug: string, tab: string | null, outbox: OutboxState) {
  const unsent = outbox.waiting.filter((entry) => entry.project === slug)
  const [state, dispatch] = useReducer(queueReducer, null, () => emptyQueue(unsent.map((entry) => entry.assignment)))
  const busy = useRef(false)
  const latest = useRef(state)
  useEffect(() => {
    latest.current = state
  }, [state])

  const take = useCallback(async () => {
    if (!tab || busy.current) return
    busy.current = true
    const answeredBefore = latest.current.answered.size
    try {
      dispatch({ kind: 'taken', queue: await takeTasks(slug, tab, ASKED), answeredBefore })
    } catch (error) {
      dispatch({ kind: 'failed', error })
    } finally {
      busy.current = false
    }
  }, [slug, tab])

  const wanted = wantsMore(state)
  // biome-ignore lint/correctness/useExhaustiveDependencies: an answer, ours or the server's, asks again while `wanted` stays true.
  useEffect(() => {
    if (wanted) void take()
  }, [wanted, take, state.tasks.length, state.takes])

  useEffect(() => {
    if (state.error === null) return
    const pause = Math.min(RETRY_MS * 2 ** (state.failures - 1), LONGEST_RETRY_MS)
    const retry = () => dispatch({ kind: 'retry' })
    const timer = setTimeout(retry, pause)
    window.addEventListener('online', retry)
    return () => {
      clearTimeout(timer)
      window.removeEventListener('online', retry)
    }
  }, [state.error, state.failures])

  const { leaseMinutes } = state
  useEffect(() => {
    if (!tab) return
    const half = leaseMinutes * 30_000
    let renewed = Date.now()
    const beat = () => {
      if (document.hidden || Date.now() - renewed < half) return
      renewed = Date.now()
      // A heartbeat that fails costs nothing: the next one comes, and a late vote is kept.
      renewLeases(slug, tab).catch(() => undefined)
    }
    const timer = setInterval(beat, Math.min(half, 10_000))
    document.addEventListener('visibilitychange', beat)
    return () => {
      clearInterval(timer)
      document.removeEventListener('visibilitychange', beat)
    }
  }, [slug, tab, leaseMinutes])

  useEffect(() => {
    if (!tab) return
    const release = () => {
      // The task on screen stays leased, so that a reload shows the same one.
      const unseen = latest.current.tasks.slice(1).map((task) => task.assignment)
      if (unseen.length > 0) releaseTasks(slug, tab, unseen).catch(() => undefined)
    }
    const shown = (event: PageTransitionEvent) => {
      if (event.persisted) dispatch({ kind: 'restored' })
    }
    window.addEventListener('pagehide', release)
    window.addEventListener('pageshow', shown)
    return () => {
      release()
      window.removeEventListener('pagehide', release)
      window.removeEventListener('pageshow', shown)
    }
  }, [slug, tab])

  return { state, dispatch, unsent: unsent.length }
}
