import { useCallback, useEffect, useRef } from 'react'
import { type ActiveTime, sawActivity, spent, startTime, wentAway } from 'src/annotate/activeTime'

const SIGNS = ['pointermove', 'pointerdown', 'keydown', 'wheel', 'touchmove'] as const

/** Milliseconds of attention since the last `restart`. */
export function useActiveTime(): { restart: () => void; read: () => number } {
  const time = useRef<ActiveTime>(startTime(0, false))
  const now = () => performance.now()
  useEffect(() => {
    const sign = () => {
      if (!document.hidden) time.current = sawActivity(time.current, performance.now())
    }
    const visibility = () => {
      time.current = (document.hidden ? wentAway : sawActivity)(time.current, performance.now())
    }
    for (const name of SIGNS) window.addEventListener(name, sign, { passive: true })
    document.addEventListener('visibilitychange', visibility)
    return () => {
      for (const name of SIGNS) window.removeEventListener(name, sign)
      document.removeEventListener('visibilitychange', visibility)
    }
  }, [])
  const restart = useCallback(() => {
    time.current = startTime(performance.now(), !document.hidden)
  }, [])
  return { restart, read: () => Math.round(spent(time.current, now())) }
}
