/** From curves to charts: which names share one, in which order, and under which title. */
import type { MetricInfo, Curve as Thinned } from 'src/api/schema'
import { align, type Curve } from 'src/ui/charts/curves'

export type Series = Map<string, Curve>

/** Curves as the server thinned them. */
export const thinned = (curves: readonly Thinned[]): Series =>
  new Map(curves.map(({ name, steps, values }) => [name, { name, label: name, xs: steps, ys: values }]))

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
/** Counts are no curves. */
const HIDDEN = new Set(['pairs', 'groups'])
/** Ends of an interval go with the curve between them. */
const ENDS = /_(low|high)$/
/** Parts and helpers of another figure: shown on demand, as what tells of the machine is. */
const DETAIL = new RegExp(
  [
    '^(accuracy|pairs|longer|preferred)_(length|longer|votes|overrated)',
    '^(distinct|duplicate|calibration_noise)',
    '^(ceiling|changed_pairs|length_slope|length_p95|temperature|advantage_std|ratio_max)',
    '^kl_.',
    '_top$',
  ].join('|'),
)

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
  return SECONDARY.has(group) || SECONDARY_NAMES.has(last) || DETAIL.test(last)
}

/** Where both ends are known: each is thinned on its own. */
function bandOf(low: Curve, high: Curve) {
  const [xs, lows, highs] = align([low, high])
  const both = xs.flatMap((x, index): [number, number, number][] => {
    const [bottom, top] = [lows?.[index], highs?.[index]]
    return bottom == null || top == null ? [] : [[x, bottom, top]]
  })
  return { xs: both.map(([x]) => x), low: both.map(([, y]) => y), high: both.map(([, , y]) => y) }
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
    if (ENDS.test(name) && series.has(name.replace(ENDS, ''))) continue
    // `time/step` alone would read as a step; the group belongs to its name.
    const title = SECONDARY.has(group) ? `${group} ${last}` : (TOGETHER[last] ?? last)
    byTitle.set(title, [...(byTitle.get(title) ?? []), curve])
  }
  return [...byTitle].map(([title, curves]) => {
    const first = curves[0]
    const metric = first && known.get(first.name)
    const [low, high] = [series.get(`${first?.name}_low`), series.get(`${first?.name}_high`)]
    return {
      title: readable(title),
      secondary: first !== undefined && isSecondary(first.name),
      unit: metric?.unit ?? '',
      help: metric?.help ?? '',
      curves: curves.map((curve) => ({ ...curve, sparse: SPARSE.has(split(curve.name)[0]) })),
      ...(low && high ? { band: bandOf(low, high) } : {}),
    }
  })
}

/** A chart for each metric, with a curve for each job that has it. */
export function overlay(
  jobs: readonly { label: string; curves: readonly Thinned[] }[],
  metrics: readonly MetricInfo[],
): Chart[] {
  const known = new Map(metrics.map((metric) => [metric.name, metric]))
  const names = [...new Set(jobs.flatMap((job) => job.curves.map((curve) => curve.name)))]
  names.sort((one, other) => rank(one) - rank(other) || one.localeCompare(other))
  return names.map((name) => ({
    title: name,
    secondary: isSecondary(name),
    unit: known.get(name)?.unit ?? '',
    help: known.get(name)?.help ?? '',
    curves: jobs.map(({ label, curves }): Curve => {
      const own = curves.find((curve) => curve.name === name)
      // A job without it keeps its place, so that a colour is one job in every chart.
      return { name: label, label, xs: own?.steps ?? [], ys: own?.values ?? [], sparse: SPARSE.has(split(name)[0]) }
    }),
  }))
}
