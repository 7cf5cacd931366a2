/** Every read and write by name: query keys, stale times and the calls themselves. */
import { type QueryClient as Client, infiniteQueryOptions, QueryClient, queryOptions } from '@tanstack/react-query'
import { apiPath, type CallOptions, call } from 'src/api/client'
import { ApiError, isTemporary } from 'src/api/errors'
import { feedOptions, pollWhile } from 'src/api/live'
import type {
  AnnotateProjectList,
  Comparison,
  FlagRequest,
  FreezeRequest,
  Guideline,
  Job,
  JobDetail,
  Log,
  MethodList,
  MetricInfoList,
  Model,
  ModelCreateRequest,
  NewToken,
  Overview,
  PatchedProjectPatchRequest,
  Preview,
  Project,
  PromoteRequest,
  Prompt,
  Queue,
  Receipt,
  Retracted,
  Round,
  RoundCreateRequest,
  Sample,
  SamplePage,
  Session,
  SkipRequest,
  Snapshot,
  Token,
  TokenCreateRequest,
  User,
  VoteRequest,
  WishRequest,
} from 'src/api/schema'

const FACT = Number.POSITIVE_INFINITY
const MINUTES = 60_000
const LIST = 30_000
const PAGE = 50

/** GET retries twice, and never what would be refused again. */
export function newQueryClient(): Client {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: LIST,
        retry: (failures, error) => failures < 2 && isTemporary(error),
        throwOnError: false,
      },
      mutations: { retry: false },
    },
  })
}

export const get = <T>(path: string, signal?: AbortSignal, query?: CallOptions['query']) =>
  call<T>('GET', path, { signal, query })

export const isOver = (job: Pick<Job, 'status'>): boolean =>
  job.status === 'succeeded' || job.status === 'failed' || job.status === 'cancelled'

export const keys = {
  session: ['session'] as const,
  tokens: ['tokens'] as const,
  metrics: ['metrics'] as const,
  work: ['annotate'] as const,
  projects: ['projects'] as const,
  project: (slug: string) => ['project', slug] as const,
}

/* ---- Session and tokens */

export const sessionQuery = () =>
  queryOptions({
    queryKey: keys.session,
    queryFn: ({ signal }) => get<Session>('session', signal),
    staleTime: 5 * MINUTES,
  })

export const signIn = async (email: string, password: string): Promise<User> => {
  const { user } = await call<Session>('POST', 'session', { body: { email, password } })
  if (!user) throw new ApiError({ status: 400, code: 'bad_credentials', message: '' })
  return user
}
export const signOut = () => call<void>('DELETE', 'session')

export const tokensQuery = () => listQuery<Token>(keys.tokens, 'tokens')
export const createToken = (body: TokenCreateRequest) => call<NewToken>('POST', 'tokens', { body })
export const revokeToken = (id: string) => call<void>('DELETE', `tokens/${id}`)

/* ---- Lists: pages by cursor */

type ListPage<Item> = { items: Item[]; next?: string | null }

export function listQuery<Item>(
  queryKey: readonly unknown[],
  path: string,
  query: CallOptions['query'] = {},
  active?: (item: Item) => boolean,
) {
  return infiniteQueryOptions({
    queryKey,
    queryFn: ({ signal, pageParam }) => get<ListPage<Item>>(path, signal, { limit: PAGE, ...query, cursor: pageParam }),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next ?? null,
    refetchInterval: active
      ? pollWhile<{ pages: ListPage<Item>[] }>((data) => data.pages.some((page) => page.items.some(active)))
      : false,
    refetchIntervalInBackground: true,
    select: (data) => data.pages.flatMap((page) => page.items),
  })
}

/* ---- Annotator */

export const workQuery = () =>
  queryOptions({
    queryKey: keys.work,
    queryFn: ({ signal }) =>
      // "Today" is the reader's, whatever the server's clock says.
      get<AnnotateProjectList>('annotate/projects', signal, {
        since: new Date(new Date().setHours(0, 0, 0, 0)).toISOString(),
      }),
    select: (list) => list.items,
    staleTime: 0,
  })

export const guidelineQuery = (slug: string) =>
  queryOptions({
    queryKey: [...keys.work, slug, 'guideline'],
    queryFn: ({ signal }) => get<Guideline>(`annotate/projects/${slug}/guideline`, signal),
    staleTime: 5 * MINUTES,
  })

export type SkipReason = SkipRequest['reason']
export type FlagKind = FlagRequest['kind']

/** Not in the query cache: leases belong to one tab and are taken, not read. */
export const takeTasks = (slug: string, tab: string, n: number, signal?: AbortSignal) =>
  call<Queue>('POST', `annotate/projects/${slug}/queue`, { body: { tab, n }, signal })
export const renewLeases = (slug: string, tab: string) =>
  call<unknown>('POST', `annotate/projects/${slug}/heartbeat`, { body: { tab } })
export const releaseTasks = (slug: string, tab: string, assignments: string[]) =>
  call<unknown>('POST', `annotate/projects/${slug}/release`, { body: { tab, assignments }, keepalive: true })
export const sendVote = (assignment: string, idempotencyKey: string, body: VoteRequest) =>
  call<Receipt>('POST', `annotate/assignments/${assignment}/vote`, { body, idempotencyKey })
export const retractVote = (vote: string) => call<Retracted>('POST', `annotate/votes/${vote}/retract`)
export const skipTask = (assignment: string, body: SkipRequest) =>
  call<void>('POST', `annotate/assignments/${assignment}/skip`, { body })
export const flagTask = (assignment: string, body: FlagRequest) =>
  call<void>('POST', `annotate/assignments/${assignment}/flag`, { body })

/* ---- Researcher: project */

export const at = (slug: string, rest: string) => `projects/${slug}/${rest}`
export const key = (slug: string, ...rest: unknown[]) => [...keys.project(slug), ...rest]

export const projectQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'settings'),
    queryFn: ({ signal }) => get<Project>(`projects/${slug}`, signal),
    staleTime: 5 * MINUTES,
  })

export const patchProject = (slug: string, body: PatchedProjectPatchRequest) =>
  call<Project>('PATCH', `projects/${slug}`, { body })

export const overviewQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'overview'),
    queryFn: ({ signal }) => get<Overview>(at(slug, 'overview'), signal),
    staleTime: 0,
    refetchInterval: pollWhile<Overview>(() => true, 10_000),
    refetchIntervalInBackground: true,
  })

export const promptsQuery = (slug: string, filter: { q?: string; category?: string }) =>
  listQuery<Prompt>(key(slug, 'prompts', filter), at(slug, 'prompts'), filter)

export const comparisonsQuery = (slug: string, filter: { state?: string; round?: string }) =>
  listQuery<Comparison>(key(slug, 'comparisons', filter), at(slug, 'comparisons'), filter)

/* ---- Rounds, snapshots, models */

export const roundsQuery = (slug: string) =>
  listQuery<Round>(key(slug, 'rounds'), at(slug, 'rounds'), {}, (round) => !isOver(round))

export const createRound = (slug: string, body: RoundCreateRequest) => call<Round>('POST', at(slug, 'rounds'), { body })

export const snapshotsQuery = (slug: string) => listQuery<Snapshot>(key(slug, 'snapshots'), at(slug, 'snapshots'))

/** Frozen, but an erasure may still take lines out of it. */
export const snapshotQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'snapshot', id),
    queryFn: ({ signal }) => get<Snapshot>(at(slug, `snapshots/${id}`), signal),
  })

export type TieRule = NonNullable<FreezeRequest['tie_rule']>
export type Aggregator = NonNullable<FreezeRequest['aggregator']>
export type FreezeRule = { aggregator: Aggregator; min_votes: number; tie_rule: TieRule }
export const snapshotPreviewQuery = (slug: string, rule: FreezeRule) =>
  queryOptions({
    queryKey: key(slug, 'snapshot-preview', rule),
    queryFn: ({ signal }) => get<Preview>(at(slug, 'snapshots/preview'), signal, rule),
    staleTime: 0,
  })

export const freeze = (slug: string, body: FreezeRequest) => call<Snapshot>('POST', at(slug, 'snapshots'), { body })

export const exportPath = (slug: string, id: string, layout: string, split: string) =>
  apiPath(at(slug, `snapshots/${id}/export`), { layout, split })

export const modelsQuery = (slug: string) => listQuery<Model>(key(slug, 'models'), at(slug, 'models'))
export const registerModel = (slug: string, body: ModelCreateRequest) =>
  call<Model>('POST', at(slug, 'models'), { body })

/* ---- Jobs */

/** Defaults depend on the base model's size. */
export const methodsQuery = (slug: string, model: string) =>
  queryOptions({
    queryKey: key(slug, 'methods', model),
    queryFn: ({ signal }) => get<MethodList>(at(slug, 'methods'), signal, { model }),
    select: (list) => list.items,
    staleTime: FACT,
  })

export const metricsQuery = () =>
  queryOptions({
    queryKey: keys.metrics,
    queryFn: ({ signal }) => get<MetricInfoList>('metrics', signal),
    select: (list) => list.items,
    staleTime: FACT,
  })

export const jobsQuery = (slug: string) =>
  listQuery<Job>(key(slug, 'jobs'), at(slug, 'jobs'), {}, (job) => !isOver(job))

export const jobQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'job', id),
    queryFn: ({ signal }) => get<JobDetail>(at(slug, `jobs/${id}`), signal),
    staleTime: 0,
    refetchInterval: pollWhile<JobDetail>((job) => !isOver(job)),
    refetchIntervalInBackground: true,
  })

export const submitJob = (slug: string, body: WishRequest) => call<JobDetail>('POST', at(slug, 'jobs'), { body })
export const cancelJob = (slug: string, id: string) => call<JobDetail>('POST', at(slug, `jobs/${id}/cancel`))
export const retryJob = (slug: string, id: string) => call<JobDetail>('POST', at(slug, `jobs/${id}/retry`))
export const promoteJob = (slug: string, id: string, body: PromoteRequest) =>
  call<JobDetail>('POST', at(slug, `jobs/${id}/promote`), { body })

export const jobSamplesQuery = (client: Client, slug: string, id: string, active: boolean) =>
  feedOptions<Sample>({
    client,
    key: key(slug, 'job', id, 'samples'),
    active,
    read: (after, signal) => get<SamplePage>(at(slug, `jobs/${id}/samples`), signal, { after }),
  })

export const jobLogQuery = (slug: string, id: string, active: boolean) =>
  queryOptions({
    queryKey: key(slug, 'job', id, 'log'),
    queryFn: ({ signal }) => get<Log>(at(slug, `jobs/${id}/log`), signal),
    staleTime: 0,
    refetchInterval: pollWhile<Log>(() => active),
    refetchIntervalInBackground: true,
  })
