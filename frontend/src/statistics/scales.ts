/** Strengths as they are shown: in logits, or on the Elo scale relative to a system that has 1000. Display only. */
import type { Strength } from 'src/api/schema'
import type { Whisker } from 'src/ui/charts/Whiskers'
import { DASH } from 'src/ui/format'

const ELO_START = 1000
/** 400 points are odds of ten to one. */
const ELO_PER_LOGIT = 400 / Math.LN10

export const eloOf = (difference: number): number => ELO_START + ELO_PER_LOGIT * difference

/** `reference`: the strength that stands at 1000; null: logits as they are. */
export function onScale(strength: Strength | null, reference: number | null): Whisker {
  const put = (x: number | null) => (x === null || reference === null ? x : eloOf(x - reference))
  if (strength === null) return { value: null, low: null, high: null }
  return { value: put(strength.strength), low: put(strength.low), high: put(strength.high) }
}

/** Systems whose intervals overlap share ranks. */
export function rankText({ rank, rank_low, rank_high }: Strength): string {
  if (rank === null) return DASH
  if (rank_low === null || rank_high === null || rank_low === rank_high) return String(rank)
  return `${rank_low}–${rank_high}`
}
