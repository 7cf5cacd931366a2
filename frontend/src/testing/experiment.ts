/** A result of an experiment for tests: every kind of axis, series, cell and verdict. */
import type { ExperimentChart, ExperimentDetail } from 'src/api/schema'

const point = (x: number | string, y: number, half: number | null = null) => ({
  x,
  y,
  low: half === null ? null : y - half,
  high: half === null ? null : y + half,
})

export const bars: ExperimentChart = {
  title: 'Win rate by method',
  x: { label: 'Method', scale: 'category' },
  y: { label: 'Win rate' },
  series: [
    { name: 'held-out judge', kind: 'bars', points: [point('SFT', 0.54, 0.03), point('DPO', 0.64, 0.03)] },
    { name: 'its reward model', kind: 'bars', points: [point('SFT', 0.6), point('DPO', 0.7)] },
  ],
  lines: [{ axis: 'y', at: 0.5, label: 'chance' }],
}

export const draws: ExperimentChart = {
  title: 'Best of n',
  x: { label: 'Completions drawn', scale: 'log' },
  y: { label: 'Win rate against one draw' },
  series: [
    { name: 'expected', kind: 'line', points: [1, 4, 16, 64].map((n) => point(n, n / (n + 1))) },
    { name: 'measured', kind: 'points', points: [1, 4, 16, 64].map((n) => point(n, n / (n + 1) - 0.02, 0.03)) },
  ],
  lines: [{ axis: 'x', at: 8, label: 'budget' }],
}

export const experiment: ExperimentDetail = {
  experiment: 'methods',
  setting: 'small',
  origin: 'here',
  title: 'Methods on the same preferences',
  question: 'Do policies trained on votes beat the model that they came from?',
  finished_at: '2026-11-28T14:05:00Z',
  seconds: 1834.2,
  verdicts: { held: 1, failed: 1, undecided: 1 },
  command: 'python -m benchmarks.loop methods --setting small',
  seeds: [1, 2, 3],
  reading: ['Every method beats the base model.', 'DPO and PPO cannot be told apart.'],
  claims: [
    { claim: 'DPO beats the base model', holds: true, figure: '64.1 % [61.2, 66.9], n 1,104' },
    { claim: 'PPO beats DPO', holds: null, figure: '−0.8 points [−4.9, 3.3]' },
    { claim: 'SFT is as good as DPO', holds: false, figure: '−9.3 points [−13.2, −5.4]' },
  ],
  charts: [bars, draws],
  tables: [
    {
      title: 'Methods',
      note: 'Means over three seeds.',
      columns: [
        { key: 'method', label: 'Method', unit: '' },
        { key: 'win', label: 'Win rate', unit: 'share' },
        { key: 'kl', label: 'KL', unit: 'nats' },
      ],
      rows: [
        { method: 'DPO', win: { value: 0.641, low: 0.6, high: 0.66912, n: 1104 }, kl: 9.8 },
        { method: 'base', win: null, kl: 0 },
      ],
    },
  ],
  provenance: {
    commit: '3f9c1d2ab04e',
    machine: { cpus: 16, python: '3.11.9' },
    versions: { torch: '2.13.0' },
    models: { 'smollm2-135m-instruct': '5a'.repeat(32) },
    data: {},
    config: { steps: 120 },
  },
}
