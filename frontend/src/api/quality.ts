/** People's records and what is decided about them; gold; the audit log. */
import { queryOptions } from '@tanstack/react-query'
import { call } from 'src/api/client'
import { at, get, key, listQuery } from 'src/api/queries'
import type {
  Annotator,
  AnnotatorDetail,
  AnnotatorRow,
  AuditEvent,
  Excluded,
  ExclusionPreview,
  Gold,
  GoldConstructRequest,
  GoldGiveRequest,
  GoldMade,
  GoldPromoteRequest,
  Quality,
  Reach,
  ReferenceAgreement,
} from 'src/api/schema'

/* ---- Records */

export const annotatorsQuery = (slug: string) =>
  listQuery<AnnotatorRow>(key(slug, 'annotators'), at(slug, 'annotators'))
export const annotatorQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'annotators', id),
    queryFn: ({ signal }) => get<AnnotatorDetail>(at(slug, `annotators/${id}`), signal),
  })
export const qualityQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'quality'),
    queryFn: ({ signal }) => get<Quality>(at(slug, 'quality'), signal),
  })
export const referenceAgreementQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'reference-agreement'),
    queryFn: ({ signal }) => get<ReferenceAgreement>(at(slug, 'agreement/reference'), signal),
  })

export type Measure = 'pause' | 'resume' | 'requalify'
export const decide = (slug: string, id: string, measure: Measure, reason: string) =>
  call<Annotator>('POST', at(slug, `annotators/${id}/${measure}`), { body: { reason } })

export const exclusionQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'exclusion', id),
    queryFn: ({ signal }) => get<ExclusionPreview>(at(slug, `members/${id}/exclusion`), signal),
    staleTime: 0,
  })
/** Snapshots, jobs and models that a person's votes went into. */
export const reachQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'reach', id),
    queryFn: ({ signal }) => get<Reach>(at(slug, `members/${id}/lineage`), signal),
  })
export const exclude = (slug: string, id: string, reason: string) =>
  call<Excluded>('POST', at(slug, `members/${id}/exclude`), { body: { reason } })
export const readmit = (slug: string, id: string, reason: string) =>
  call<Excluded>('POST', at(slug, `members/${id}/readmit`), { body: { reason } })

/* ---- Gold */

export const goldQuery = (slug: string, filter: { use?: string; retired?: string }) =>
  listQuery<Gold>(key(slug, 'gold', filter), at(slug, 'gold'), filter)
export const giveGold = (slug: string, body: GoldGiveRequest) => call<Gold>('POST', at(slug, 'gold'), { body })
export const constructGold = (slug: string, body: GoldConstructRequest) =>
  call<GoldMade>('POST', at(slug, 'gold/construct'), { body })
export const promoteGold = (slug: string, body: GoldPromoteRequest) =>
  call<GoldMade>('POST', at(slug, 'gold/promote'), { body })
export const explainGold = (slug: string, id: string, explanation: string) =>
  call<Gold>('PATCH', at(slug, `gold/${id}`), { body: { explanation } })
export const retireGold = (slug: string, id: string) => call<Gold>('POST', at(slug, `gold/${id}/retire`))

/* ---- Audit log */

export const auditQuery = (slug: string, filter: { action?: string; target?: string; since?: string }) =>
  listQuery<AuditEvent>(key(slug, 'audit', filter), at(slug, 'audit'), filter)
