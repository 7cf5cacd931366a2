/** Figures and reports for tests, with nothing remarkable in them. */
import type {
  AgreementFigures,
  AgreementRow,
  PersonSummary,
  RankedSystem,
  RankingFit,
  RankingReport,
  Statistic,
  Strength,
} from 'src/api/schema'

export const statistic = (value: number | null, more: Partial<Statistic> = {}): Statistic => ({
  value,
  se: value === null ? null : 0.05,
  low: value === null ? null : value - 0.1,
  high: value === null ? null : value + 0.1,
  level: 0.95,
  n: 40,
  n_groups: 30,
  reason: value === null ? 'no_overlap' : null,
  method: 'jackknife',
  warnings: [],
  ...more,
})

export const figures = (alpha: Statistic): AgreementFigures => ({
  comparisons: 40,
  items: 40,
  votes: 120,
  people: 3,
  prompts: 30,
  percent: statistic(0.7),
  unanimous: statistic(0.6),
  alpha,
  alpha_ordinal: statistic(0.45),
  alpha_interval: null,
  fleiss: statistic(0.41),
  ac1: statistic(0.61),
  ac2: statistic(0.66),
  classes: [
    { name: 'a', share: statistic(0.5) },
    { name: 'tie', share: statistic(0.2) },
    { name: 'b', share: statistic(0.3) },
  ],
  both_bad: statistic(0.02),
})

export const row = (key: string, more: Partial<AgreementRow> = {}): AgreementRow => ({
  ...figures(statistic(0.4)),
  key,
  title: '',
  started_at: null,
  ended_at: null,
  ...more,
})

export const strength = (value: number | null, more: Partial<Strength> = {}): Strength => ({
  strength: value,
  se: 0.1,
  low: value === null ? null : value - 0.2,
  high: value === null ? null : value + 0.2,
  rank: 1,
  rank_low: 1,
  rank_high: 1,
  elo: null,
  ...more,
})

export const system = (name: string, plain: Strength, more: Partial<RankedSystem> = {}): RankedSystem => ({
  id: `id-${name}`,
  name,
  votes: 100,
  comparisons: 50,
  component: 0,
  plain,
  controlled: null,
  adjusted: null,
  ...more,
})

export const rankingFit = (more: Partial<RankingFit> = {}): RankingFit => ({
  model: 'rao_kupper',
  converged: true,
  log_likelihood: -10,
  tie_parameter: statistic(1.5),
  reason: null,
  warnings: [],
  ...more,
})

export const ranking = (systems: RankedSystem[], more: Partial<RankingReport> = {}): RankingReport => {
  const matrix = (value: number | null) => systems.map((_, i) => systems.map((__, j) => (i === j ? null : value)))
  return {
    definition: 'Strengths are log odds.',
    model: 'rao_kupper',
    criterion: null,
    controls: [],
    votes: 100,
    left_out: 0,
    prompts: 30,
    people: 3,
    both_bad: statistic(0.02),
    systems,
    fit: {
      model: 'rao_kupper',
      converged: true,
      log_likelihood: -10,
      tie_parameter: statistic(0.4),
      reason: null,
      warnings: [],
    },
    controlled_fit: null,
    adjusted_fit: null,
    effects: [],
    annotators: [],
    win_rates: { rate: matrix(0.75), low: matrix(0.6), high: matrix(0.9), n: matrix(40), model: matrix(0.7) },
    elo: systems.map(({ name }) => ({ system: name, points: [{ votes: 1, rating: 1000 }] })),
    ...more,
  }
}

export const person = (name: string, more: Partial<PersonSummary> = {}): PersonSummary => ({
  id: `id-${name}`,
  name,
  pseudonym: `person-${name}`,
  votes: 40,
  excluded: false,
  accuracy: statistic(0.8),
  agreement: statistic(0.7),
  kappa: statistic(0.5),
  tie_share: statistic(0.1),
  left_share: statistic(0.5),
  side_bias: statistic(0.05),
  consistency: statistic(0.9),
  side_driven: statistic(0.1),
  gold: statistic(0.9),
  reference: statistic(null, { n: 0 }),
  reference_kappa: statistic(null, { n: 0 }),
  median_seconds: 38,
  flags: [],
  ...more,
})
