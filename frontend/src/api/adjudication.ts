/** Disputes: the queue, the own first answer, then the votes, and what is decided. */
import { queryOptions } from '@tanstack/react-query'
import { call } from 'src/api/client'
import { at, get, key, listQuery } from 'src/api/queries'
import type {
  Decided,
  Dispute,
  DisputeDetail,
  DisputeVotes,
  RulingRequestRequest,
  SaidRequest,
  SendRequest,
  Sent,
} from 'src/api/schema'

export const disputesQuery = (slug: string, filter: { why?: string }) =>
  listQuery<Dispute>(key(slug, 'adjudication', 'list', filter), at(slug, 'adjudication'), filter)

export const disputeQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'adjudication', id),
    queryFn: ({ signal }) => get<DisputeDetail>(at(slug, `adjudication/${id}`), signal),
    staleTime: 0,
  })

/** Not asked for before the own answer is stored; the server would refuse. */
export const disputeVotesQuery = (slug: string, id: string, answered: boolean) =>
  queryOptions({
    queryKey: key(slug, 'adjudication', id, 'votes'),
    queryFn: ({ signal }) => get<DisputeVotes>(at(slug, `adjudication/${id}/votes`), signal),
    enabled: answered,
    staleTime: 0,
  })

export const answerDispute = (slug: string, id: string, body: SaidRequest) =>
  call<DisputeVotes>('POST', at(slug, `adjudication/${id}/answer`), { body })
export const rule = (slug: string, id: string, body: RulingRequestRequest) =>
  call<Decided>('POST', at(slug, `adjudication/${id}/ruling`), { body })
export const reopen = (slug: string, id: string, reason: string) =>
  call<Decided>('POST', at(slug, `adjudication/${id}/reopen`), { body: { reason } })
export const escalate = (slug: string, id: string, reason: string) =>
  call<Decided>('POST', at(slug, `adjudication/${id}/escalate`), { body: { reason } })
export const sendToAdjudication = (slug: string, body: SendRequest) =>
  call<Sent>('POST', at(slug, 'adjudication/send'), { body })
