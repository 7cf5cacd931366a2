/** Reads and writes of a project's set-up: the project itself, members, invitations, pairing, webhooks, chat, one comparison. */
import { queryOptions } from '@tanstack/react-query'
import { call } from 'src/api/client'
import { at, get, key, keys, listQuery } from 'src/api/queries'
import type {
  Accepted,
  AcceptRequest,
  Chat,
  ChatChangeRequest,
  Delivery,
  Guideline,
  InspectedComparison,
  Invitation,
  Invited,
  InviteRequest,
  Member,
  NewInvitation,
  NewWebhook,
  Pairs,
  PairsAskRequest,
  PatchedMemberChangeRequest,
  Project,
  ProjectCreateRequest,
  Source,
  Webhook,
  WebhookCreateRequest,
} from 'src/api/schema'

/* ---- A new project */

export const createProject = (body: ProjectCreateRequest) => call<Project>('POST', 'projects', { body })

/* ---- Members and invitations */

export const membersQuery = (slug: string) => listQuery<Member>(key(slug, 'members'), at(slug, 'members'))
export const changeMember = (slug: string, person: string, body: PatchedMemberChangeRequest) =>
  call<Member>('PATCH', at(slug, `members/${person}`), { body })
export const removeMember = (slug: string, person: string) => call<void>('POST', at(slug, `members/${person}/remove`))

export const invitationsQuery = (slug: string) =>
  listQuery<Invitation>(key(slug, 'invitations'), at(slug, 'invitations'))
export const invite = (slug: string, body: InviteRequest) =>
  call<NewInvitation>('POST', at(slug, 'invitations'), { body })
/** The secret stands behind the #, which no server ever sees or logs. */
export const invitationLink = (secret: string): string => `${window.location.origin}/invite#${secret}`
export const revokeInvitation = (slug: string, id: string) => call<void>('DELETE', at(slug, `invitations/${id}`))

/** The secret goes in the body: addresses are logged. */
export const invitedQuery = (secret: string) =>
  queryOptions({
    queryKey: ['invitation', secret],
    queryFn: ({ signal }) => call<Invited>('POST', 'invitations/look', { body: { secret }, signal }),
    enabled: secret !== '',
    staleTime: 0,
  })
export const acceptInvitation = (body: AcceptRequest) => call<Accepted>('POST', 'invitations/accept', { body })

/* ---- Pairing */

export const sourcesQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'sources'),
    queryFn: ({ signal }) => get<{ items: Source[] }>(at(slug, 'sources'), signal),
    select: (list) => list.items,
  })
export const makePairs = (slug: string, body: PairsAskRequest) => call<Pairs>('POST', at(slug, 'pairs'), { body })

/* ---- Webhooks */

export const webhooksQuery = (slug: string) => listQuery<Webhook>(key(slug, 'webhooks'), at(slug, 'webhooks'))
export const createWebhook = (slug: string, body: WebhookCreateRequest) =>
  call<NewWebhook>('POST', at(slug, 'webhooks'), { body })
export const removeWebhook = (slug: string, id: string) => call<void>('DELETE', at(slug, `webhooks/${id}`))
export const pingWebhook = (slug: string, id: string) => call<Delivery>('POST', at(slug, `webhooks/${id}/ping`))
export const pauseWebhook = (slug: string, id: string) => call<Webhook>('POST', at(slug, `webhooks/${id}/pause`))
export const resumeWebhook = (slug: string, id: string, resend: boolean) =>
  call<Webhook>('POST', at(slug, `webhooks/${id}/resume`), { body: { resend } })
export const deliveriesQuery = (slug: string, id: string) =>
  listQuery<Delivery>(
    [...keys.project(slug), 'deliveries', id],
    at(slug, `webhooks/${id}/deliveries`),
    {},
    (row) => row.delivered_at === null && row.next_at !== null,
  )
export const repeatDelivery = (slug: string, id: string) => call<Delivery>('POST', at(slug, `deliveries/${id}/repeat`))

/* ---- Guideline */

export const addGuideline = (slug: string, text: string) =>
  call<Guideline>('POST', at(slug, 'guidelines'), { body: { text } })

/* ---- Chat */

export const chatQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'chat'),
    queryFn: ({ signal }) => get<Chat>(at(slug, 'chat'), signal),
  })
export const changeChat = (slug: string, body: ChatChangeRequest) => call<Chat>('PUT', at(slug, 'chat'), { body })

/* ---- One comparison with everything behind it */

export const comparisonQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'comparison', id),
    queryFn: ({ signal }) => get<InspectedComparison>(at(slug, `comparisons/${id}`), signal),
    staleTime: 0,
  })
