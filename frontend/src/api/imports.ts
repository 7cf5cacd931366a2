/** Files in and out of a project. */
import { queryOptions } from '@tanstack/react-query'
import { apiPath, call } from 'src/api/client'
import { at, get, key, listQuery } from 'src/api/queries'
import type { DatasetList, DryRun, ImportBatch, ImportsCreateData } from 'src/api/schema'

export type ImportKind = ImportsCreateData['query']['kind']
export const IMPORT_KINDS: ImportKind[] = [
  'prompts',
  'completions',
  'pairs',
  'comparisons',
  'votes',
  'ratings',
  'api_log',
  'label_studio',
  'argilla',
]

const TYPES: Record<string, string> = {
  jsonl: 'application/x-ndjson',
  ndjson: 'application/x-ndjson',
  csv: 'text/csv',
  parquet: 'application/vnd.apache.parquet',
  json: 'application/json',
}
/** What a file is, by its name; null where it can be none of them. */
export const mediaType = (name: string): string | null => TYPES[name.split('.').at(-1)?.toLowerCase() ?? ''] ?? null

export const ACCEPTED = Object.keys(TYPES)
  .map((ending) => `.${ending}`)
  .join(',')

export type ImportAsk = {
  kind: ImportKind
  file: File
  /** Our field by the file's, as JSON; empty: the names are ours. */
  columns: string
  onError: 'refuse' | 'skip'
}

/** A dry run reads no more than this. */
const DRY_BYTES = 5_000_000

/** Whole lines from the beginning of a file of lines; other files as they are. */
async function head(file: File, type: string): Promise<Blob> {
  const isLines = type === TYPES.jsonl || type === TYPES.csv
  if (!isLines || file.size <= DRY_BYTES) return file
  const text = await file.slice(0, DRY_BYTES).text()
  return new Blob([text.slice(0, text.lastIndexOf('\n') + 1)], { type })
}

const query = ({ kind, file, columns, onError }: ImportAsk) => ({ kind, on_error: onError, name: file.name, columns })

export async function dryRun(slug: string, ask: ImportAsk): Promise<DryRun> {
  const type = mediaType(ask.file.name) ?? ''
  const body = await head(ask.file, type)
  return call<DryRun>('POST', at(slug, 'imports'), { query: { ...query(ask), dry_run: true }, raw: { body, type } })
}

/** Done when it answers for a small file; a large one goes on as a task. */
export const importFile = (slug: string, ask: ImportAsk) =>
  call<ImportBatch>('POST', at(slug, 'imports'), {
    query: query(ask),
    raw: { body: ask.file, type: mediaType(ask.file.name) ?? '' },
  })

export const isImporting = (batch: ImportBatch): boolean =>
  batch.state === 'queued' || batch.state === 'checking' || batch.state === 'loading'

export const importsQuery = (slug: string) =>
  listQuery<ImportBatch>(key(slug, 'imports'), at(slug, 'imports'), {}, isImporting)

export const importQuery = (slug: string, id: string) =>
  queryOptions({
    queryKey: key(slug, 'imports', id),
    queryFn: ({ signal }) => get<ImportBatch>(at(slug, `imports/${id}`), signal),
  })

export const importErrorsPath = (slug: string, id: string) => apiPath(at(slug, `imports/${id}/errors`))

/* ---- Exports */

export const exportsQuery = (slug: string) =>
  queryOptions({
    queryKey: key(slug, 'exports'),
    queryFn: ({ signal }) => get<DatasetList>(at(slug, 'exports'), signal),
    select: (list) => list.items,
  })

export const exportDatasetPath = (slug: string, dataset: string, format: string) =>
  apiPath(at(slug, `exports/${dataset}`), { as: format })
