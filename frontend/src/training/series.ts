/** From metric rows to charts: which names share one, in which order, and under which title. */
import type { MetricInfo, MetricPoint } from 'src/api/schema'
import type { Curve } from 'src/ui/charts/curves'

export type MetricRow = MetricPoint
export type Series = Map<string, Curve>

/** The latest row of a step wins: a second attempt repeats the steps after its checkpoint. */
export function collect(rows: readonly MetricRow[]): Series {
  const points = new Map<string, Map<number, number>>()
  for (const row of rows) {
    for (const [name, value] of Object.entries(row.values)) {
      if (typeof value !== 'number' || !Number.isFinite(value)) continue
      const curve = points.get(name) ?? new Map<number, number>()
      curve.set(row.step, value)
      points.set(name, curve)
    }
  }
  const series: Series = new Map()
  for (const [name, curve] of points) {
    const sorted = [...curve].sort(([one], [other]) => one - other)
    series.set(name, { name, label: name, xs: sorted.map(([x]) => x), ys: sorted.map(([, y]) => y) })
  }
  return series
}

export type Chart = {
  title: string
  /** About the machine and the data rather than about what is learned: shown on demand. */
  secondary: boolean
  unit: string
  help: string
  curves: Curve[]
  band?: { xs: number[]; low: number[]; high: number[] }
}

/** Charts that a researcher reads first, by the last part of their names. */
const FIRST = [
  'loss',
  'accuracy',
  'margin',
  'logp_chosen_change',
  'logp_rejected_change',
  'falling_share',
  'kl',
  'reward',
  'longer_wins',
  'nll',
  'brier',
  'length',
  'gradient_norm',
  'grad_norm',
  'learning_rate',
]
/** Names drawn together although their last parts differ. */
const TOGETHER: Record<string, string> = {
  logp_chosen_change: 'logp_change',
  logp_rejected_change: 'logp_change',
  longer_wins: 'accuracy',
  vote_accuracy: 'accuracy',
}
const GROUPS: Record<string, number> = { train: 0, eval: 1, rollout: 2, policy: 3, test: 9 }
/** Groups and single names that tell of the machine, the clock and the data. */
const SECONDARY = new Set(['data', 'memory', 'speed', 'time', 'gpu'])
const SECONDARY_NAMES = new Set(['epoch', 'tokens', 'samples'])
/** Groups written at evaluations only. */
const SPARSE = new Set(['eval', 'rollout'])
/** Counts and interval ends are told elsewhere, or are no curve. */
const HIDDEN = new Set(['pairs', 'groups', 'accuracy_low', 'accuracy_high', 'vote_accuracy_low', 'vote_accuracy_high'])

const split = (name: string): [string, string] => {
  const slash = name.indexOf('/')
  return slash < 0 ? ['', name] : [name.slice(0, slash), name.slice(slash + 1)]
}

export function readable(name: string): string {
  const words = name
    .replaceAll('_', ' ')
    .replace(/\blogp\b/g, 'log-prob')
    .replace(/\bkl\b/g, 'KL')
    .replace(/\bnll\b/g, 'NLL')
  return words.charAt(0).toUpperCase() + words.slice(1)
}

function rank(name: string): number {
  const [, last] = split(name)
  const place = FIRST.indexOf(last)
  return place < 0 ? FIRST.length : place
}

function isSecondary(name: string): boolean {
  const [group, last] = split(name)
  return SECONDARY.has(group) || SECONDARY_NAMES.has(last)
}

/** One chart a quantity: `train/loss` and `eval/loss` share theirs. Test figures are numbers, not curves. */
export function charts(series: Series, metrics: readonly MetricInfo[]): Chart[] {
  const known = new Map(metrics.map((metric) => [metric.name, metric]))
  const byTitle = new Map<string, Curve[]>()
  const names = [...series.keys()].sort((one, other) => {
    const [group] = split(one)
    const [otherGroup] = split(other)
    return rank(one) - rank(other) || (GROUPS[group] ?? 5) - (GROUPS[otherGroup] ?? 5) || one.localeCompare(other)
  })
  for (const name of names) {
    const [group, last] = split(name)
    const curve = series.get(name)
    if (!curve || HIDDEN.has(last) || group === 'test') continue
    // `time/step` alone would read as a step; the group belongs to its name.
    const title = SECONDARY.has(group) ? `${group} ${last}` : (TOGETHER[last] ?? last)
    byTitle.set(title, [...(byTitle.get(title) ?? []), curve])
  }
  return [...byTitle].map(([title, curves]) => {
    const first = curves[0]
    const metric = first && known.get(first.name)
    const low = series.get('eval/accuracy_low')
    const high = series.get('eval/accuracy_high')
    const banded = title === 'accuracy' && first?.name === 'eval/accuracy' && low && high
    return {
      title: readable(title),
      secondary: first !== undefined && isSecondary(first.name),
      unit: metric?.unit ?? '',
      help: metric?.help ?? '',
      curves: curves.map((curve) => ({ ...curve, sparse: SPARSE.has(split(curve.name)[0]) })),
      ...(banded ? { band: { xs: low.xs, low: low.ys, high: high.ys } } : {}),
    }
  })
}
