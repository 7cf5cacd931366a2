/** What a snapshot holds, how it differs from another, and what its exports must be. All of it facts, until lines are erased. */
import { keepPreviousData, queryOptions } from '@tanstack/react-query'
import { pollWhile } from 'src/api/live'
import { at, get, isOver, key } from 'src/api/queries'
import type {
  ExportSum,
  PreferenceChangeEnum,
  SnapshotCard,
  SnapshotDifference,
  SnapshotSimilarity,
} from 'src/api/schema'

const FACT = Number.POSITIVE_INFINITY

/** `erased`: how many lines of it were, for what is left changes with them. */
export const snapshotCardQuery = (slug: string, id: string, erased: number) =>
  queryOptions({
    queryKey: key(slug, 'snapshot', id, 'card', erased),
    queryFn: ({ signal }) => get<SnapshotCard>(at(slug, `snapshots/${id}/card`), signal),
    staleTime: FACT,
  })

/** While a job measures it, asked again. */
export const snapshotSimilarityQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'snapshot', id, 'similarity'),
    queryFn: ({ signal }) => get<SnapshotSimilarity>(at(slug, `snapshots/${id}/similarity`), signal),
    staleTime: 0,
    refetchInterval: pollWhile<SnapshotSimilarity>(({ latest }) => latest !== null && !isOver(latest)),
  })

/** Without `since`, against the one before. */
export const snapshotDifferenceQuery = (slug: string, id: string, since = '', change: PreferenceChangeEnum | '' = '') =>
  queryOptions({
    queryKey: key(slug, 'snapshot', id, 'difference', since, change),
    queryFn: ({ signal }) => get<SnapshotDifference>(at(slug, `snapshots/${id}/difference`), signal, { since, change }),
    staleTime: FACT,
    placeholderData: keepPreviousData,
  })

export const exportSumQuery = (slug: string, id: string, erased: number, layout: string, split: string) =>
  queryOptions({
    queryKey: key(slug, 'snapshot', id, 'sum', erased, layout, split),
    queryFn: ({ signal }) => get<ExportSum>(at(slug, `snapshots/${id}/sum`), signal, { layout, split }),
    staleTime: FACT,
  })
