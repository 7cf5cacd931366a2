/** Files in: pick or drop, look at what would come in, then import; large files show how far they are. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Inbox } from 'lucide-react'
import { useState } from 'react'
import {
  ACCEPTED,
  dryRun,
  IMPORT_KINDS,
  type ImportAsk,
  type ImportKind,
  importErrorsPath,
  importFile,
  importsQuery,
  isImporting,
  mediaType,
} from 'src/api/imports'
import { useMembership } from 'src/api/membership'
import type { DryRun, ImportBatch } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { Exports } from 'src/setup/Exports'
import { FileDrop } from 'src/setup/FileDrop'
import styles from 'src/setup/Imports.module.css'
import { badRows, NotImported, RowErrors } from 'src/setup/RowErrors'
import { promptLine, type Turn } from 'src/ui/content/Conversation'
import { bytes, count, DASH } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Progress, Time, type Tone } from 'src/ui/widgets/Bits'
import { Button, DownloadLink } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField, TextArea } from 'src/ui/widgets/Field'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Card, Facts, Page, Row } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

export default function Imports() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  return (
    <Page title={t('nav.imports')} intro={t('imports.intro')}>
      {canManage && <NewImport slug={slug} />}
      <Batches slug={slug} />
      <Exports slug={slug} />
    </Page>
  )
}

/** `question` by `prompt`, a pair a line, as the server wants it. */
export function readColumns(text: string): string {
  const pairs = text
    .split('\n')
    .map((line) => line.split('='))
    .flatMap(([ours = '', theirs = '']) => (ours.trim() && theirs.trim() ? [[ours.trim(), theirs.trim()]] : []))
  return pairs.length > 0 ? JSON.stringify(Object.fromEntries(pairs)) : ''
}

function NewImport({ slug }: { slug: string }) {
  const [kind, setKind] = useState<ImportKind>('prompts')
  const [file, setFile] = useState<File | null>(null)
  const [columns, setColumns] = useState('')
  const look = useWrite(slug, (ask: ImportAsk) => dryRun(slug, ask))
  const load = useWrite(
    slug,
    (ask: ImportAsk) => importFile(slug, ask),
    () => setFile(null),
  )
  const ask = (onError: ImportAsk['onError']): ImportAsk | null =>
    file && { kind, file, columns: readColumns(columns), onError }
  const start = (onError: ImportAsk['onError']) => {
    const asked = ask(onError)
    if (asked) load.mutate(asked)
  }
  const choose = (chosen: File | null) => {
    setFile(chosen)
    look.reset()
    load.reset()
  }
  const wrongName = file !== null && mediaType(file.name) === null
  const refused = badRows(load.error)
  const bad = refused.length > 0 || (look.data?.refused ?? 0) > 0
  return (
    <Card title={t('imports.new')}>
      <FileDrop file={file} accept={ACCEPTED} note={t('imports.formats')} onChoose={choose} />
      {wrongName && <Notice tone="error">{t('imports.wrongName', { name: file.name })}</Notice>}
      <div className={styles.fields}>
        <SelectField
          label={t('import.what')}
          value={kind}
          options={IMPORT_KINDS.map((name): [string, string] => [name, t(`imports.kind.${name}`)])}
          onChange={(event) => {
            setKind(event.target.value as ImportKind)
            look.reset()
            load.reset()
          }}
        />
        <TextArea
          label={t('imports.columns')}
          help={t('imports.columnsHelp')}
          rows={2}
          value={columns}
          onChange={(event) => setColumns(event.target.value)}
        />
      </div>
      <Row>
        <Button
          look={look.data ? 'plain' : 'primary'}
          disabled={!file || wrongName}
          busy={look.isPending}
          onClick={() => {
            const asked = ask('refuse')
            if (asked) look.mutate(asked)
          }}
        >
          {t('imports.look')}
        </Button>
        <Button
          look={look.data && !bad ? 'primary' : 'plain'}
          disabled={!file || wrongName}
          busy={load.isPending}
          onClick={() => start('refuse')}
        >
          {load.isPending ? t('import.busy') : t('import.start')}
        </Button>
        {bad && (
          <Button busy={load.isPending} disabled={!file} onClick={() => start('skip')}>
            {t('import.skipBad')}
          </Button>
        )}
      </Row>
      {load.data && (
        <Notice tone="ok" role="status">
          {isImporting(load.data)
            ? t('imports.queued')
            : `${t('import.done', { n: load.data.imported })} ${t('import.rest', { duplicates: load.data.duplicates, skipped: load.data.skipped })}`}
        </Notice>
      )}
      {load.isError && <NotImported error={load.error} />}
      {look.isError && <ErrorPanel what={t('imports.lookFailed')} error={look.error} safe={t('import.nothing')} />}
      {look.data && !load.data && <DryRunResult found={look.data} />}
    </Card>
  )
}

type Example = DryRun['examples'][number]

function DryRunResult({ found }: { found: DryRun }) {
  const columns: Column<Example>[] = [
    { name: 'line', header: t('import.line'), align: 'end', cell: (row) => row.line },
    {
      name: 'prompt',
      header: t('comparisons.prompt'),
      wrap: true,
      cell: (row) => (row.messages ? promptLine(row.messages as Turn[], 120) : DASH),
    },
    { name: 'category', header: t('prompts.category'), cell: (row) => row.category || DASH },
    { name: 'completions', header: t('funnel.completions'), align: 'end', cell: (row) => row.completions.length },
    { name: 'comparisons', header: t('funnel.comparisons'), align: 'end', cell: (row) => row.comparisons.length },
    {
      name: 'votes',
      header: t('funnel.votes'),
      align: 'end',
      cell: (row) => row.votes.length + row.comparisons.reduce((sum, one) => sum + one.votes.length, 0),
    },
  ]
  return (
    <>
      <Facts
        items={[
          [t('imports.rows'), count(found.rows)],
          [t('imports.duplicates'), count(found.duplicates)],
          [t('imports.refused'), count(found.refused)],
        ]}
      />
      {found.errors.length > 0 && <RowErrors rows={found.errors} />}
      {found.examples.length > 0 && (
        <div className={styles.errors}>
          <DataTable
            caption={t('imports.examples')}
            columns={columns}
            rows={found.examples}
            rowKey={(row) => String(row.line)}
          />
        </div>
      )}
    </>
  )
}

const TONES: Partial<Record<ImportBatch['state'], Tone>> = {
  done: 'ok',
  refused: 'error',
  failed: 'error',
  queued: 'plain',
}

/** What the file held; a kind of a newer server by its name. */
function kindName(kind: string): string {
  const known = IMPORT_KINDS.find((name) => name === kind)
  return known ? t(`imports.kind.${known}`) : kind
}

function Batches({ slug }: { slug: string }) {
  const list = useInfiniteQuery(importsQuery(slug))
  const columns: Column<ImportBatch>[] = [
    {
      name: 'name',
      header: t('imports.file'),
      wrap: true,
      cell: (row) => (
        <>
          <strong>{row.name || kindName(row.kind)}</strong>
          <div className="muted small">
            {kindName(row.kind)} · {bytes(row.size_bytes)}
          </div>
        </>
      ),
    },
    {
      name: 'state',
      header: t('comparisons.state'),
      cell: (row) => (
        <>
          <Badge tone={TONES[row.state] ?? 'live'}>{t(`imports.state.${row.state}`)}</Badge>
          {isImporting(row) && (
            <div style={{ width: 140, marginBlockStart: 6 }}>
              <Progress label={t('imports.progress')} value={row.rows_done} max={row.rows} />
              <span className="muted small">
                {t('imports.rate', { done: count(row.rows_done), rows: count(row.rows), rate: row.rate ?? 0 })}
              </span>
            </div>
          )}
          {row.reason && <div className="muted small">{row.reason}</div>}
        </>
      ),
    },
    { name: 'rows', header: t('imports.rows'), align: 'end', cell: (row) => count(row.rows) },
    { name: 'imported', header: t('imports.imported'), align: 'end', cell: (row) => count(row.imported) },
    { name: 'duplicates', header: t('imports.duplicates'), align: 'end', cell: (row) => count(row.duplicates) },
    {
      name: 'skipped',
      header: t('imports.refused'),
      align: 'end',
      cell: (row) =>
        row.errors.length > 0 ? (
          <DownloadLink small href={importErrorsPath(slug, row.id)}>
            {t('imports.refusedRows', { n: Math.max(row.skipped, row.errors.length) })}
          </DownloadLink>
        ) : (
          count(row.skipped)
        ),
    },
    { name: 'at', header: t('tokens.created'), cell: (row) => <Time at={row.created_at} /> },
  ]
  return (
    <ListCard
      title={t('imports.title')}
      showTitle
      query={list}
      failed={t('imports.failed')}
      columns={columns}
      rowKey={(row) => row.id}
      empty={{ icon: Inbox, title: t('imports.none'), text: t('imports.noneText') }}
    />
  )
}
