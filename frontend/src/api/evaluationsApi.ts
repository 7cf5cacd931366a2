/** Reads and writes of evaluations, of the ranking of policies, and of rounds beyond their list. */
import { queryOptions } from '@tanstack/react-query'
import { call } from 'src/api/client'
import { pollWhile } from 'src/api/live'
import { at, get, isOver, key, listQuery } from 'src/api/queries'
import type {
  Evaluation,
  EvaluationCreateRequest,
  EvaluationDetail,
  Freshness,
  JudgeInputRequest,
  PolicyRankings,
  Round,
  Schedule,
  ScheduleChangeRequest,
} from 'src/api/schema'

const SECOND = 1_000

/* ---- Evaluations */

/** Sampling, or the job of a judge, goes on. People may vote at any time: that is no work of ours. */
export const isUnderWay = ({ status, verdicts }: Pick<Evaluation, 'status' | 'verdicts'>): boolean =>
  !isOver({ status }) || verdicts.some(({ job }) => job !== null && !isOver(job))

export const evaluationsQuery = (slug: string) =>
  listQuery<Evaluation>(key(slug, 'evaluations'), at(slug, 'evaluations'), {}, isUnderWay)

export const evaluationQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'evaluations', id),
    queryFn: ({ signal }) => get<EvaluationDetail>(at(slug, `evaluations/${id}`), signal),
    staleTime: 0,
    refetchInterval: (query: Parameters<ReturnType<typeof pollWhile<EvaluationDetail>>>[0]) =>
      pollWhile<EvaluationDetail>(isUnderWay, 4 * SECOND)(query) ||
      pollWhile<EvaluationDetail>(({ verdicts }) => verdicts.some(({ kind }) => kind === 'people'), 30 * SECOND)(query),
  })

export const startEvaluation = (slug: string, body: EvaluationCreateRequest) =>
  call<EvaluationDetail>('POST', at(slug, 'evaluations'), { body })
export const addJudge = (slug: string, id: string, body: JudgeInputRequest) =>
  call<EvaluationDetail>('POST', at(slug, `evaluations/${id}/judges`), { body })

export const policyRankingQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'policy-ranking'),
    queryFn: ({ signal }) => get<PolicyRankings>(at(slug, 'policies/ranking'), signal),
    staleTime: 0,
  })

/* ---- Rounds */

export const stopRound = (slug: string, id: string) => call<Round>('POST', at(slug, `rounds/${id}/stop`))
export const continueRound = (slug: string, id: string) => call<Round>('POST', at(slug, `rounds/${id}/continue`))

export const freshnessQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'freshness'),
    queryFn: ({ signal }) => get<Freshness>(at(slug, 'rounds/freshness'), signal),
  })

export const scheduleQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'schedule'),
    queryFn: ({ signal }) => get<Schedule>(at(slug, 'schedule'), signal),
    staleTime: 0,
    refetchInterval: pollWhile<Schedule>(({ due }) => due !== null, 5 * SECOND),
  })
export const changeSchedule = (slug: string, body: ScheduleChangeRequest) =>
  call<Schedule>('PUT', at(slug, 'schedule'), { body })
