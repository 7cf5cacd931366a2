/** Rankings by several kinds of judge as one table: a row a policy, a place a kind. */
import type { JudgeKindEnum, PolicyRankings, RankedPolicy } from 'src/api/schema'
import { DASH } from 'src/ui/format'

export const JUDGE_KINDS = ['people', 'reward', 'judge'] as const satisfies JudgeKindEnum[]

export type RankedRow = {
  id: string
  name: string
  model: string | null
  by: Partial<Record<JudgeKindEnum, RankedPolicy>>
}

const idOf = ({ model, name }: RankedPolicy): string => model ?? `source ${name}`

/** In the order of the first kind that knows a policy; those that only later kinds know come after. */
export function rankedRows(
  { rankings }: Pick<PolicyRankings, 'rankings'>,
  kinds: readonly JudgeKindEnum[],
): RankedRow[] {
  const rows = new Map<string, RankedRow>()
  for (const kind of kinds) {
    for (const policy of rankings.find((one) => one.kind === kind)?.policies ?? []) {
      const id = idOf(policy)
      const row = rows.get(id) ?? { id, name: policy.name, model: policy.model, by: {} }
      rows.set(id, { ...row, by: { ...row.by, [kind]: policy } })
    }
  }
  return [...rows.values()]
}

/** Policies whose intervals overlap share ranks. */
export function placeText(policy: RankedPolicy | undefined): string {
  if (!policy || policy.rank === null) return DASH
  const { rank, rank_low, rank_high } = policy
  return rank_low === null || rank_high === null || rank_low === rank_high ? String(rank) : `${rank_low}–${rank_high}`
}

/** Whether some policies never met, not even through others. */
export const isSplit = (policies: readonly RankedPolicy[]): boolean =>
  new Set(policies.map(({ component }) => component)).size > 1
