/** Time a person spent on one task: only while the page is seen, and no more than a minute after the last sign of them. */

const IDLE_MS = 60_000

export type ActiveTime = { total: number; since: number | null }

export const startTime = (now: number, visible: boolean): ActiveTime => ({ total: 0, since: visible ? now : null })

/** A sign of activity, or the page being shown. */
export function sawActivity(time: ActiveTime, now: number): ActiveTime {
  return { total: spent(time, now), since: now }
}

export function wentAway(time: ActiveTime, now: number): ActiveTime {
  return { total: spent(time, now), since: null }
}

export function spent({ total, since }: ActiveTime, now: number): number {
  return since === null ? total : total + Math.min(Math.max(0, now - since), IDLE_MS)
}
