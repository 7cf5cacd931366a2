/** The prompts of a project. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Eraser, MessageSquareText, Plus } from 'lucide-react'
import { useEffect, useState } from 'react'
import { useMembership } from 'src/api/membership'
import { promptReachQuery } from 'src/api/modelsApi'
import { promptsQuery } from 'src/api/queries'
import type { ImportBatch, Prompt } from 'src/api/schema'
import { AddPrompts, importedText } from 'src/setup/AddPrompts'
import styles from 'src/setup/Prompts.module.css'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { count, DASH } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { TextField } from 'src/ui/widgets/Field'
import { Card, Facts, Page } from 'src/ui/widgets/Page'
import { ReachLists } from 'src/ui/widgets/Reach'
import { Empty, Loaded, Notice, Skeleton } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

const TYPING_MS = 200

export default function Prompts() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage, isOwner } = useMembership(slug)
  const [search, change] = useAddress()
  const q = search.get('q') ?? ''
  const [text, setText] = useState(q)
  const list = useInfiniteQuery(promptsQuery(slug, { q }))
  const [open, setOpen] = useState<Prompt | null>(null)
  // biome-ignore lint/correctness/useExhaustiveDependencies: only the person's typing moves the address.
  useEffect(() => {
    if (text === q) return
    const timer = setTimeout(() => change({ q: text }), TYPING_MS)
    return () => clearTimeout(timer)
  }, [text])

  const columns: Column<Prompt>[] = [
    {
      name: 'prompt',
      header: t('comparisons.prompt'),
      wrap: true,
      cell: (row) => (
        <Button look="text" onClick={() => setOpen(row)}>
          {row.erased_at ? <span className="muted">{t('erasure.erasedText')}</span> : promptLine(row.messages)}
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
  const [adding, setAdding] = useState(false)
  const [added, setAdded] = useState<ImportBatch | null>(null)
  const addButton = canManage && (
    <Button look="primary" onClick={() => setAdding(true)}>
      <Plus size={16} aria-hidden="true" />
      {t('addPrompts.title')}
    </Button>
  )
  return (
    <Page title={t('nav.prompts')} intro={t('prompts.intro')} actions={addButton}>
      {added && (
        <Notice tone="ok" role="status">
          {importedText(added)}
        </Notice>
      )}
      {adding && (
        <Dialog title={t('addPrompts.title')} onClose={() => setAdding(false)} width={860}>
          <AddPrompts
            slug={slug}
            onDone={(batch) => {
              setAdding(false)
              setAdded(batch)
            }}
          />
        </Dialog>
      )}
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
                action={!q && addButton}
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
        <Dialog
          title={open.category || t('comparisons.prompt')}
          onClose={() => setOpen(null)}
          width={760}
          footer={
            (isOwner || open.erased_at) && (
              <LinkButton href={`/r/${slug}/data/${open.id}/erase`}>
                <Eraser size={16} aria-hidden="true" />
                {open.erased_at ? t('erasure.see') : t('erasure.action')}
              </LinkButton>
            )
          }
        >
          {open.erased_at ? (
            <Notice>{t('erasure.erasedText')}</Notice>
          ) : (
            <Conversation turns={open.messages} prefix={open.id} compact />
          )}
          <Hanging slug={slug} id={open.id} />
        </Dialog>
      )}
    </Page>
  )
}

/** What hangs on a prompt: to be read before it is taken out of the data. */
function Hanging({ slug, id }: { slug: string; id: string }) {
  const reach = useQuery(promptReachQuery(slug, id))
  return (
    <Card title={t('lineage.prompt')} note={t('lineage.promptText')}>
      <Loaded query={reach} what={t('lineage.failed')} skeleton={<Skeleton rows={3} />}>
        {(found) => (
          <>
            <Facts
              items={[
                [t('lineage.completions'), count(found.completions)],
                [t('lineage.comparisons'), count(found.comparisons)],
                [t('lineage.votes'), count(found.votes)],
                [t('lineage.frozen'), count(found.frozen)],
                [
                  t('lineage.rounds'),
                  found.rounds.map((round) => round.name || t('round.title', { number: round.number })).join(', ') ||
                    DASH,
                ],
              ]}
            />
            {found.models.length > 0 && <Notice tone="warn">{t('lineage.touched', { n: found.models.length })}</Notice>}
            <ReachLists slug={slug} found={found} nothing={t('lineage.noneTouched')} />
          </>
        )}
      </Loaded>
    </Card>
  )
}
