/** Reads and writes of jobs beyond the list: what one would take, grids, clones, long curves, quotas and workers. */
import { keepPreviousData, type QueryClient, queryOptions } from '@tanstack/react-query'
import { apiPath, call } from 'src/api/client'
import { pollWhile } from 'src/api/live'
import { at, get, isOver, key, listQuery, methodsQuery } from 'src/api/queries'
import type {
  CloneRequest,
  Curve,
  Job,
  JobCurves,
  JobDetail,
  JobEstimate,
  JobList,
  JobsCompared,
  Mark,
  MethodList,
  Quota,
  QuotaChangeRequest,
  SweepRequest,
  WishRequest,
  WorkerList,
} from 'src/api/schema'

/* ---- Before a job */

/** From the same answer as the methods. */
export const machinesQuery = (slug: string, model: string) => {
  const { queryKey, queryFn, staleTime } = methodsQuery(slug, model)
  return queryOptions({ queryKey, queryFn, staleTime, select: (list: MethodList) => list.machines })
}

/** Asked while the form is filled in: the server checks the request as if it were sent, and queues nothing. */
export const estimateQuery = (slug: string, body: WishRequest, ready: boolean) =>
  queryOptions({
    queryKey: key(slug, 'estimate', body),
    queryFn: ({ signal }) => call<JobEstimate>('POST', at(slug, 'jobs/estimate'), { body, signal }),
    enabled: ready,
    staleTime: 60_000,
    retry: false,
    placeholderData: keepPreviousData,
  })

export const sweepJobs = (slug: string, body: SweepRequest) => call<JobList>('POST', at(slug, 'jobs/sweep'), { body })
export const cloneJob = (slug: string, id: string, body: CloneRequest) =>
  call<JobDetail>('POST', at(slug, `jobs/${id}/clone`), { body })

/* ---- Lists */

export type JobFilter = { method?: string; status?: string; sweep?: string }

export const jobListQuery = (slug: string, filter: JobFilter) =>
  listQuery<Job>(key(slug, 'jobs', filter), at(slug, 'jobs'), filter, (job) => !isOver(job))

export const changePriority = (slug: string, id: string, priority: number) =>
  call<JobDetail>('PATCH', at(slug, `jobs/${id}`), { body: { priority } })

export const quotaQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'quota'),
    queryFn: ({ signal }) => get<Quota>(at(slug, 'quota'), signal),
    staleTime: 0,
    refetchInterval: pollWhile<Quota>(() => true, 10_000),
  })
export const changeQuota = (slug: string, body: QuotaChangeRequest) => call<Quota>('PUT', at(slug, 'quota'), { body })

/* ---- Curves */

const POINTS = 500
/** A curve that has grown to this many points is read anew, thinned. */
const MOST_POINTS = 2_500

export type LiveCurves = { curves: Curve[]; marks: Mark[]; after: number; terminal: boolean; stride: number }

/** Points in the steps that were read replace those of before: a later attempt repeats the steps after its checkpoint. */
export function joinCurves(have: LiveCurves | undefined, more: JobCurves): LiveCurves {
  const rest = { marks: more.marks, after: more.next_after, terminal: more.terminal }
  if (!have) return { ...rest, curves: more.curves, stride: more.stride }
  const { first_step: first, last_step: last } = more
  if (first === null || last === null) return { ...rest, curves: have.curves, stride: have.stride }
  const fresh = new Map(more.curves.map((curve) => [curve.name, curve]))
  const joined = have.curves.map((curve) => {
    const added = fresh.get(curve.name)
    fresh.delete(curve.name)
    const points = curve.steps.flatMap((step, index): [number, number, number][] =>
      step >= first && step <= last ? [] : [[step, curve.times[index] ?? 0, curve.values[index] ?? Number.NaN]],
    )
    added?.steps.forEach((step, index) => {
      points.push([step, added.times[index] ?? 0, added.values[index] ?? Number.NaN])
    })
    points.sort(([one], [other]) => one - other)
    return {
      name: curve.name,
      points: curve.points + (added?.points ?? 0),
      steps: points.map(([step]) => step),
      times: points.map(([, time]) => time),
      values: points.map(([, , value]) => value),
    }
  })
  return { ...rest, curves: [...joined, ...fresh.values()], stride: Math.max(have.stride, more.stride) }
}

/** All curves of a job: thinned for what was there, then on from where the last answer ended, however long ago. */
export const jobCurvesQuery = (client: QueryClient, slug: string, id: string, active: boolean) => {
  const queryKey = key(slug, 'job', id, 'curves')
  return queryOptions({
    queryKey,
    queryFn: async ({ signal }) => {
      const kept = client.getQueryData<LiveCurves>(queryKey)
      const have = kept?.curves.some((curve) => curve.steps.length > MOST_POINTS) ? undefined : kept
      const query = { points: POINTS, after: have?.after ?? 0 }
      return joinCurves(have, await get<JobCurves>(at(slug, `jobs/${id}/curves`), signal, query))
    },
    staleTime: 0,
    structuralSharing: false,
    refetchInterval: pollWhile<LiveCurves>((feed) => active || !feed.terminal),
    refetchIntervalInBackground: true,
  })
}

export const csvPath = (slug: string, id: string) => apiPath(at(slug, `jobs/${id}/metrics.csv`))
export const tensorBoardPath = (slug: string, id: string) => apiPath(at(slug, `jobs/${id}/tensorboard`))
export const tensorBoardArchive = (slug: string, ids: readonly string[]) =>
  apiPath(at(slug, 'jobs/tensorboard'), { ids: ids.join(',') })

export const MOST_COMPARED = 12
const goesOn = (compared: JobsCompared): boolean => compared.jobs.some((job) => !isOver(job))

/** Without names, the server's choice of main metrics. */
export const compareQuery = (slug: string, ids: readonly string[], names: readonly string[]) =>
  queryOptions({
    queryKey: key(slug, 'compare', ids, names),
    queryFn: ({ signal }) =>
      get<JobsCompared>(at(slug, 'jobs/compare'), signal, { ids: ids.join(','), names: names.join(','), points: 300 }),
    enabled: ids.length > 0,
    staleTime: 0,
    placeholderData: keepPreviousData,
    refetchInterval: pollWhile<JobsCompared>(goesOn, 5_000),
  })

/* ---- Workers, of the whole site */

export const workersQuery = () =>
  queryOptions({
    queryKey: ['workers'],
    queryFn: ({ signal }) => get<WorkerList>('workers', signal),
    staleTime: 0,
    refetchInterval: pollWhile<WorkerList>(() => true, 5_000),
  })
