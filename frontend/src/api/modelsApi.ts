/** Reads and writes of models, of what came of what, and of alarms. */
import { infiniteQueryOptions, queryOptions } from '@tanstack/react-query'
import { apiPath, call } from 'src/api/client'
import { pollWhile } from 'src/api/live'
import { at, get, key, listQuery } from 'src/api/queries'
import type {
  Alarm,
  AlarmActRequest,
  AlarmList,
  DownloadsEnum,
  Model,
  ModelCard,
  Origin,
  PatchedModelChangeRequest,
  PromptEraseRequest,
  PromptReach,
  SnapshotReach,
  VoteReach,
} from 'src/api/schema'

/* ---- Models */

export const SHELVES = ['no', 'yes', 'all'] as const
/** Whether archived models are left out, the only ones, or among the others. */
export type Shelf = (typeof SHELVES)[number]

export const modelListQuery = (slug: string, archived: Shelf) =>
  listQuery<Model>(key(slug, 'models', { archived }), at(slug, 'models'), { archived })

const cardKey = (slug: string, id: string) => key(slug, 'models', id)

export const cardQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: cardKey(slug, id),
    queryFn: ({ signal }) => get<ModelCard>(at(slug, `models/${id}`), signal),
  })
export const changeModel = (slug: string, id: string, body: PatchedModelChangeRequest) =>
  call<ModelCard>('PATCH', at(slug, `models/${id}`), { body })
export const verifyModel = (slug: string, id: string) => call<ModelCard>('POST', at(slug, `models/${id}/verify`))

export type ArchiveKind = 'zip' | 'tar'
export const modelDownload = (slug: string, id: string, form: DownloadsEnum, as: ArchiveKind) =>
  apiPath(at(slug, `models/${id}/download`), { form, as })

/* ---- Lineage: what a model was made of, and what came of a prompt, a vote or a snapshot */

export const originQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'origin', id),
    queryFn: ({ signal }) => get<Origin>(at(slug, `models/${id}/lineage`), signal),
  })
export const votesDownload = (slug: string, id: string) => apiPath(at(slug, `models/${id}/votes`))
export const promptReachQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'reach', 'prompt', id),
    queryFn: ({ signal }) => get<PromptReach>(at(slug, `prompts/${id}/lineage`), signal),
    staleTime: 0,
    // Texts go at once, files by a worker.
    refetchInterval: pollWhile<PromptReach>(({ erasure }) => erasure !== null && erasure.finished_at === null),
  })
export const erasePrompt = (slug: string, id: string, body: PromptEraseRequest) =>
  call<PromptReach>('POST', at(slug, `prompts/${id}/erase`), { body })
export const snapshotReachQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'reach', 'snapshot', id),
    queryFn: ({ signal }) => get<SnapshotReach>(at(slug, `snapshots/${id}/lineage`), signal),
  })
export const voteReachQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'reach', 'vote', id),
    queryFn: ({ signal }) => get<VoteReach>(at(slug, `votes/${id}/lineage`), signal),
  })

/* ---- Alarms */

const ALARMS_POLL_MS = 10_000
const ALARMS_PAGE = 20

export type Alarms = { items: Alarm[]; open: number; openByName: Record<string, number> }

/** `open` is "true", "false" or nothing; the counts are of the whole project. */
export const alarmsQuery = (slug: string, filter: { open?: string; job?: string }) =>
  infiniteQueryOptions({
    queryKey: key(slug, 'alarms', filter),
    queryFn: ({ signal, pageParam }) =>
      get<AlarmList>(at(slug, 'alarms'), signal, { ...filter, limit: ALARMS_PAGE, cursor: pageParam }),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    staleTime: 0,
    refetchInterval: pollWhile<{ pages: AlarmList[] }>(() => true, ALARMS_POLL_MS),
    refetchIntervalInBackground: true,
    select: ({ pages }): Alarms => ({
      items: pages.flatMap((page) => page.items),
      open: pages[0]?.open ?? 0,
      openByName: pages[0]?.open_by_name ?? {},
    }),
  })
export const acknowledgeAlarm = (slug: string, id: string, note: string) =>
  call<Alarm>('POST', at(slug, `alarms/${id}/acknowledge`), { body: { note } })
export const actOnAlarm = (slug: string, id: string, body: AlarmActRequest) =>
  call<Alarm>('POST', at(slug, `alarms/${id}/act`), { body })
