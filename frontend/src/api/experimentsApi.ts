/** Results of experiments: of the whole site, not of a project. */
import { queryOptions } from '@tanstack/react-query'
import { get } from 'src/api/queries'
import type { ExperimentDetail, ExperimentList } from 'src/api/schema'

/** A run that ends while the page is open is there at the next visit. */
const STALE_MS = 30_000

export const experimentsQuery = () =>
  queryOptions({
    queryKey: ['experiments'],
    queryFn: ({ signal }) => get<ExperimentList>('experiments', signal),
    staleTime: STALE_MS,
  })

export const experimentQuery = (name: string, setting: string) =>
  queryOptions({
    queryKey: ['experiments', name, setting],
    queryFn: ({ signal }) =>
      get<ExperimentDetail>(`experiments/${encodeURIComponent(name)}/${encodeURIComponent(setting)}`, signal),
    staleTime: STALE_MS,
  })
