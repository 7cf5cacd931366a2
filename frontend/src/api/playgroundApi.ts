/** Reads and writes of the playground. */
import { queryOptions } from '@tanstack/react-query'
import { call } from 'src/api/client'
import { pollWhile } from 'src/api/live'
import { at, get, key, listQuery } from 'src/api/queries'
import type { PlaygroundAskRequest, PlaygroundDetail, PlaygroundQuestion } from 'src/api/schema'

const STREAM_MS = 400

export const playgroundListQuery = (slug: string) =>
  listQuery<PlaygroundQuestion>(key(slug, 'playground'), at(slug, 'playground'), { limit: 20 })

const questionKey = (slug: string, id: string) => key(slug, 'playground', id)

/** Read again and again while texts grow. */
export const questionQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: questionKey(slug, id),
    queryFn: ({ signal }) => get<PlaygroundDetail>(at(slug, `playground/${id}`), signal),
    enabled: id !== '',
    staleTime: 0,
    refetchInterval: pollWhile<PlaygroundDetail>((question) => question.stage !== 'over', STREAM_MS),
    refetchIntervalInBackground: true,
  })

export const askPlayground = (slug: string, body: PlaygroundAskRequest) =>
  call<PlaygroundDetail>('POST', at(slug, 'playground'), { body })
export const stopQuestion = (slug: string, id: string) =>
  call<PlaygroundDetail>('POST', at(slug, `playground/${id}/stop`))
export const sendQuestion = (slug: string, id: string) =>
  call<PlaygroundDetail>('POST', at(slug, `playground/${id}/send`), { body: {} })
