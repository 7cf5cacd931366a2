/** Statistics of a project's votes. Each report is also a file, at the same address. */
import { infiniteQueryOptions, keepPreviousData, queryOptions } from '@tanstack/react-query'
import { apiPath, type CallOptions } from 'src/api/client'
import { at, get, key } from 'src/api/queries'
import type {
  AdviceReport,
  AgreementReport,
  ArmsReport,
  BiasReport,
  DividedList,
  MatrixReport,
  PeopleReport,
  PlanReport,
  RankingReport,
  StatisticsAgreementData,
  StatisticsMatrixData,
  StatisticsPlanData,
  StatisticsRankingData,
  StatisticsWorstData,
} from 'src/api/schema'

type Asked<Data extends { query?: unknown }> = Omit<NonNullable<Data['query']>, 'as'>
export type Split = NonNullable<Asked<StatisticsAgreementData>['split']>
export type Window = NonNullable<Asked<StatisticsAgreementData>['window']>
export type Weights = NonNullable<Asked<StatisticsMatrixData>['weights']>
export type DividedBy = NonNullable<Asked<StatisticsWorstData>['by']>

/** Of rankings, the default first. */
export const MODELS = [
  'rao_kupper',
  'davidson',
  'bradley_terry',
  'crowd_bt',
  'plackett_luce',
  'rank_centrality',
] as const satisfies NonNullable<Asked<StatisticsRankingData>['model']>[]

/** A report's name and what was asked of it: where it is read, and where its file lies. */
export type Source = { slug: string; name: string; query?: CallOptions['query'] }

/** Joint fits take a while and change slowly. */
const SLOW = 5 * 60_000
/** Comparisons at a time: each comes with its texts and its votes. */
const DIVIDED = 10

const address = ({ slug, name }: Source) => at(slug, `statistics/${name}`)

/** What was read with another filter stays on the screen until the new figures are there. */
const report = <Report>(source: Source) =>
  queryOptions({
    queryKey: key(source.slug, 'statistics', source.name, source.query ?? {}),
    queryFn: ({ signal }) => get<Report>(address(source), signal, source.query),
    staleTime: SLOW,
    placeholderData: keepPreviousData,
  })

/** `table`: which figure of the report a CSV holds; JSON holds all of them. */
export const filePath = (source: Source, as: 'csv' | 'json', table?: string) =>
  apiPath(address(source), { ...source.query, as, table: as === 'csv' ? table : undefined })

export const agreementSource = (slug: string, query: Asked<StatisticsAgreementData> = {}): Source => ({
  slug,
  name: 'agreement',
  query,
})
export const matrixSource = (slug: string, query: Asked<StatisticsMatrixData>): Source => ({
  slug,
  name: 'matrix',
  query,
})
export const peopleSource = (slug: string): Source => ({ slug, name: 'people' })
export const rankingSource = (slug: string, query: Asked<StatisticsRankingData>): Source => ({
  slug,
  name: 'ranking',
  query,
})
export const biasSource = (slug: string): Source => ({ slug, name: 'bias' })
export const dividedSource = (slug: string, by: DividedBy): Source => ({ slug, name: 'worst', query: { by } })
export const adviceSource = (slug: string, accuracy?: number): Source => ({
  slug,
  name: 'advice',
  query: { accuracy },
})

export const armsSource = (slug: string): Source => ({ slug, name: 'arms' })

/** In the order in which they are asked for. */
export const PLAN_FIELDS = ['win_rate', 'accuracy', 'half_width', 'systems', 'pairs_per_prompt', 'icc'] as const
export type PlanField = (typeof PLAN_FIELDS)[number] & keyof Asked<StatisticsPlanData>
/** Values as they were typed: the server says which of them it cannot take. */
export const planSource = (slug: string, query: Partial<Record<PlanField, string>>): Source => ({
  slug,
  name: 'plan',
  query,
})

export const agreementQuery = (source: Source) => report<AgreementReport>(source)
export const matrixQuery = (source: Source) => report<MatrixReport>(source)
export const peopleQuery = (source: Source) => report<PeopleReport>(source)
export const rankingQuery = (source: Source) => report<RankingReport>(source)
export const biasQuery = (source: Source) => report<BiasReport>(source)
export const adviceQuery = (source: Source) => report<AdviceReport>(source)
export const armsQuery = (source: Source) => report<ArmsReport>(source)
export const planQuery = (source: Source) => report<PlanReport>(source)
export const dividedQuery = (source: Source) =>
  infiniteQueryOptions({
    queryKey: key(source.slug, 'statistics', source.name, source.query ?? {}),
    queryFn: ({ signal, pageParam }) =>
      get<DividedList>(address(source), signal, { limit: DIVIDED, ...source.query, cursor: pageParam }),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    select: ({ pages }) => ({
      definition: pages[0]?.definition ?? '',
      rows: pages.flatMap(({ items }) => items),
    }),
  })
