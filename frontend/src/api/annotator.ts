/** The annotator's own reads and writes beside the queue: votes given, conversations. */
import { queryOptions } from '@tanstack/react-query'
import { call } from 'src/api/client'
import { pollWhile } from 'src/api/live'
import { get, keys } from 'src/api/queries'
import type {
  Attempt,
  Explanation,
  FeedbackList,
  GuidelineChange,
  OwnConversationList,
  OwnVoteList,
  Practice,
  QualificationTask,
  Standing,
  Thread,
} from 'src/api/schema'

const at = (slug: string, rest: string) => `annotate/projects/${slug}/${rest}`
const key = (slug: string, ...rest: unknown[]) => [...keys.work, slug, ...rest]

export const ownVotesQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'votes'),
    queryFn: ({ signal }) => get<OwnVoteList>(at(slug, 'votes'), signal),
    select: (list) => list.items,
    staleTime: 0,
  })

/* ---- Conversations */

export const conversationsQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'conversations'),
    queryFn: ({ signal }) => get<OwnConversationList>(at(slug, 'conversations'), signal),
    staleTime: 0,
  })

const WAIT_MS = 2_000

export const threadQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'conversations', id),
    queryFn: ({ signal }) => get<Thread>(at(slug, `conversations/${id}`), signal),
    staleTime: 0,
    refetchInterval: pollWhile<Thread>((thread) => thread.state === 'waiting', WAIT_MS),
  })

export const startConversation = (slug: string, system: string) =>
  call<Thread>('POST', at(slug, 'conversations'), { body: { system } })
export const say = (slug: string, id: string, content: string, idempotencyKey: string) =>
  call<Thread>('POST', at(slug, `conversations/${id}/messages`), { body: { content }, idempotencyKey })
export const retryTurn = (slug: string, id: string) => call<Thread>('POST', at(slug, `conversations/${id}/retry`))
export const endConversation = (slug: string, id: string, rating: number) =>
  call<Thread>('POST', at(slug, `conversations/${id}/end`), { body: { rating } })

/* ---- Onboarding: guideline, practice, qualification */

export const standingQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'onboarding'),
    queryFn: ({ signal }) => get<Standing>(at(slug, 'onboarding'), signal),
    staleTime: 0,
  })

export const guidelineChangeQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'guideline', 'changes'),
    queryFn: ({ signal }) => get<GuidelineChange>(at(slug, 'guideline/changes'), signal),
    staleTime: 0,
  })

export const confirmGuideline = (slug: string, number: number) =>
  call<unknown>('POST', at(slug, 'guideline/confirm'), { body: { number } })

/** Taken, not read: each belongs to one tab, so neither is in the query cache. */
export const nextPractice = (slug: string, tab: string) =>
  call<Practice>('POST', at(slug, 'practice'), { body: { tab } })
export const explanationOf = (slug: string, assignment: string) =>
  call<Explanation>('GET', at(slug, `practice/${assignment}/explanation`))
export const beginAttempt = (slug: string) => call<Attempt>('POST', at(slug, 'qualification'))
export const nextExample = (slug: string, tab: string) =>
  call<QualificationTask>('POST', at(slug, 'qualification/next'), { body: { tab } })

/* ---- Own feedback */

export const feedbackQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'feedback'),
    queryFn: ({ signal }) => get<FeedbackList>(at(slug, 'feedback'), signal),
    select: (list) => list.items,
    staleTime: 0,
  })
export const objectTo = (slug: string, vote: string, text: string) =>
  call<void>('POST', at(slug, `votes/${vote}/objection`), { body: { text } })
export const readFeedback = (slug: string, id: string) => call<void>('POST', at(slug, `feedback/${id}/read`))
