/** The prompts of a project, and the way in: prompts or votes as JSON Lines. */
import { useInfiniteQuery, useMutation, useQueryClient } from '@tanstack/react-query'
import { MessageSquareText, Upload } from 'lucide-react'
import { useEffect, useId, useState } from 'react'
import { ApiError } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { importRows, keys, promptsQuery } from 'src/api/queries'
import type { ImportBatch, Prompt } from 'src/api/schema'
import styles from 'src/setup/Prompts.module.css'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { count } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, TextField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice, Skeleton } from 'src/ui/widgets/States'
import { useParams, useSearchParams } from 'wouter'

const TYPING_MS = 200

export default function Prompts() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, setSearch] = useSearchParams()
  const q = search.get('q') ?? ''
  const [text, setText] = useState(q)
  const list = useInfiniteQuery(promptsQuery(slug, { q }))
  const [open, setOpen] = useState<Prompt | null>(null)
  const importing = search.get('import') === '1'
  const change = (name: string, value: string) =>
    setSearch(
      (params) => {
        if (value) params.set(name, value)
        else params.delete(name)
        return params
      },
      { replace: true },
    )
  // biome-ignore lint/correctness/useExhaustiveDependencies: only the person's typing moves the address.
  useEffect(() => {
    if (text === q) return
    const timer = setTimeout(() => change('q', text), TYPING_MS)
    return () => clearTimeout(timer)
  }, [text])

  const columns: Column<Prompt>[] = [
    {
      name: 'prompt',
      header: t('comparisons.prompt'),
      wrap: true,
      cell: (row) => (
        <Button
          look="quiet"
          small
          onClick={() => setOpen(row)}
          style={{ textAlign: 'start', justifyContent: 'start', fontWeight: 400, fontSize: 14, paddingInline: 0 }}
        >
          {promptLine(row.messages)}
        </Button>
      ),
    },
    {
      name: 'category',
      header: t('prompts.category'),
      cell: (row) => <span className="muted">{row.category || '–'}</span>,
    },
    { name: 'completions', header: t('funnel.completions'), align: 'end', cell: (row) => count(row.completions) },
    { name: 'comparisons', header: t('funnel.comparisons'), align: 'end', cell: (row) => count(row.comparisons) },
  ]
  const importButton = canManage && (
    <Button look="primary" onClick={() => change('import', '1')}>
      <Upload size={16} aria-hidden="true" />
      {t('import.open')}
    </Button>
  )
  return (
    <Page title={t('nav.prompts')} intro={t('prompts.intro')} actions={importButton}>
      <div className={styles.filters}>
        <TextField
          label={t('prompts.search')}
          type="search"
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
      </div>
      <Card flush>
        <Loaded
          query={list}
          what={t('prompts.failed')}
          skeleton={
            <div style={{ padding: '0 24px' }}>
              <Skeleton rows={10} />
            </div>
          }
        >
          {(rows) =>
            rows.length === 0 ? (
              <Empty
                icon={MessageSquareText}
                title={q ? t('prompts.noneFound') : t('prompts.none')}
                action={!q && importButton}
              >
                {q ? t('prompts.noneFoundText') : t('prompts.noneText')}
              </Empty>
            ) : (
              <DataTable
                caption={t('nav.prompts')}
                columns={columns}
                rows={rows}
                rowKey={(row) => row.id}
                more={list}
              />
            )
          }
        </Loaded>
      </Card>
      {open && (
        <Dialog title={open.category || t('comparisons.prompt')} onClose={() => setOpen(null)} width={760}>
          <Conversation turns={open.messages} prefix={open.id} compact />
        </Dialog>
      )}
      {importing && <ImportDialog slug={slug} onClose={() => change('import', '')} />}
    </Page>
  )
}

type RowError = ImportBatch['errors'][number]

/** The rows a refused import names, where it names them. */
function badRows(error: unknown): RowError[] {
  if (!(error instanceof ApiError) || error.code !== 'bad_rows') return []
  return Array.isArray(error.details.errors) ? (error.details.errors as RowError[]) : []
}

const ERRORS: Column<RowError>[] = [
  { name: 'line', header: t('import.line'), align: 'end', cell: (row) => row.line },
  { name: 'field', header: t('import.field'), cell: (row) => <code>{row.field}</code> },
  { name: 'message', header: t('import.problem'), wrap: true, cell: (row) => row.message },
]

function ImportDialog({ slug, onClose }: { slug: string; onClose: () => void }) {
  const client = useQueryClient()
  const id = useId()
  const [kind, setKind] = useState<'prompts' | 'votes'>('prompts')
  const [file, setFile] = useState<File | null>(null)
  const [missing, setMissing] = useState(false)
  const run = useMutation({
    mutationFn: async ({ from, skip }: { from: File; skip: boolean }) =>
      importRows(slug, kind, skip ? 'skip' : 'refuse', await from.text()),
    onSuccess: () => client.invalidateQueries({ queryKey: keys.project(slug) }),
  })
  const start = (skip: boolean) => (file ? run.mutate({ from: file, skip }) : setMissing(true))
  const errors = badRows(run.error)
  if (run.data) {
    const { imported, duplicates, skipped } = run.data
    return (
      <Dialog
        title={t('import.doneTitle')}
        onClose={onClose}
        footer={
          <Button look="primary" onClick={onClose}>
            {t('action.close')}
          </Button>
        }
      >
        <Notice tone="ok" role="status">
          {t('import.done', { n: imported })} {t('import.rest', { duplicates, skipped })}
        </Notice>
        {run.data.errors.length > 0 && <RowErrors rows={run.data.errors} />}
      </Dialog>
    )
  }
  return (
    <Dialog
      title={t('import.title')}
      onClose={onClose}
      width={640}
      onSubmit={() => start(false)}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          {errors.length > 0 && (
            <Button busy={run.isPending} onClick={() => start(true)}>
              {t('import.skipBad')}
            </Button>
          )}
          <Button look="primary" type="submit" busy={run.isPending}>
            {run.isPending ? t('import.busy') : t('import.start')}
          </Button>
        </>
      }
    >
      <ChoiceGroup legend={t('import.what')}>
        <ChoiceCard
          kind="radio"
          name="kind"
          checked={kind === 'prompts'}
          onChange={() => setKind('prompts')}
          label={t('import.prompts')}
          note={t('import.promptsNote')}
        />
        <ChoiceCard
          kind="radio"
          name="kind"
          checked={kind === 'votes'}
          onChange={() => setKind('votes')}
          label={t('import.votes')}
          note={t('import.votesNote')}
        />
      </ChoiceGroup>
      <div className={styles.file}>
        <label htmlFor={id}>{t('import.file')}</label>
        <input
          id={id}
          type="file"
          accept=".jsonl,.ndjson,.json"
          onChange={(event) => {
            setFile(event.target.files?.[0] ?? null)
            run.reset()
          }}
        />
        {missing && !file && <div role="alert">{t('import.noFile')}</div>}
      </div>
      {run.isError && errors.length === 0 && (
        <ErrorPanel what={t('import.failed')} error={run.error} safe={t('import.nothing')} />
      )}
      {errors.length > 0 && (
        <>
          <Notice tone="error" role="alert">
            {t('import.bad', { n: errors.length })} {t('import.nothing')}
          </Notice>
          <RowErrors rows={errors} />
        </>
      )}
    </Dialog>
  )
}

function RowErrors({ rows }: { rows: RowError[] }) {
  return (
    <div className={styles.errors}>
      <DataTable
        caption={t('import.problems')}
        columns={ERRORS}
        rows={rows}
        rowKey={(row) => `${row.line}-${row.field}`}
      />
    </div>
  )
}
