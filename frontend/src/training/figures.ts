/** Which of a model's measured figures are shown, in which order, each with its interval where there is one. */

export type Figure = { name: string; value: number; low: number | null; high: number | null }

const GROUPS = ['test', 'eval', 'rollout', 'policy', 'train']
const SHOWN_FIRST = ['test/accuracy', 'eval/accuracy', 'rollout/kl', 'train/loss']
const MAIN = new Set([
  'test/accuracy',
  'test/vote_accuracy',
  'test/longer_wins',
  'test/loss',
  'test/margin',
  'test/nll',
  'rollout/kl',
  'rollout/reward',
  'rollout/length_mean',
])
const FEW = 6
const ENDS = /_(low|high)$/

/** All figures but the ends of intervals, which go with the figure between them; held-out parts first. */
export function figuresOf(metrics: Readonly<Record<string, number>>): Figure[] {
  const place = (name: string) => {
    const at = GROUPS.indexOf(name.split('/')[0] ?? '')
    return at < 0 ? GROUPS.length : at
  }
  const end = (name: string): number | null => {
    const value = metrics[name]
    return typeof value === 'number' ? value : null
  }
  return Object.entries(metrics)
    .filter(([name, value]) => typeof value === 'number' && !(ENDS.test(name) && name.replace(ENDS, '') in metrics))
    .map(([name, value]) => ({ name, value, low: end(`${name}_low`), high: end(`${name}_high`) }))
    .sort((a, b) => place(a.name) - place(b.name) || a.name.localeCompare(b.name))
}

/** What a reader asks first, and the rest; the first few where none of them is known. */
export function parted(figures: readonly Figure[]): { main: Figure[]; rest: Figure[] } {
  const main = figures.filter(({ name }) => MAIN.has(name))
  if (main.length === 0) return { main: figures.slice(0, FEW), rest: figures.slice(FEW) }
  return { main, rest: figures.filter(({ name }) => !MAIN.has(name)) }
}

/** The one figure of a table: accuracy on held-out data before what was seen in training. */
export function mainFigure(metrics: Readonly<Record<string, number>>): Figure | null {
  const all = figuresOf(metrics)
  for (const name of SHOWN_FIRST) {
    const found = all.find((figure) => figure.name === name)
    if (found) return found
  }
  return null
}
