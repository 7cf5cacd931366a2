/** Every comparison with its votes and what they came to. Here, and not on the annotator's page, sources have names. */

import { useInfiniteQuery } from '@tanstack/react-query'
import { Gavel, Lock, Scale } from 'lucide-react'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import { comparisonsQuery } from 'src/api/queries'
import type { Comparison, Sent } from 'src/api/schema'
import { Behind } from 'src/setup/Behind'
import styles from 'src/setup/Comparisons.module.css'
import { SendToAdjudication } from 'src/setup/SendToAdjudication'
import { rankingText } from 'src/ui/answer/answer'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { Markdown } from 'src/ui/content/Markdown'
import { fixed } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Badge, type Tone } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { Filters } from 'src/ui/widgets/Filters'
import { Card, Facts, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, Notice, Skeleton } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

const STATES: [string, Key][] = [
  ['', 'comparisons.all'],
  ['open', 'comparisons.open'],
  ['settled', 'comparisons.settled'],
  ['disputed', 'comparisons.disputed'],
  ['adjudicated', 'comparisons.adjudicated'],
  ['withdrawn', 'comparisons.withdrawn'],
]
const TONES: Record<string, Tone> = { settled: 'ok', adjudicated: 'ok', disputed: 'warn' }

function stateName(state: string): string {
  const known = STATES.find(([value]) => value === state && value !== '')
  return known ? t(known[1]) : state
}

function labelName(label: string | null): string {
  if (label === null) return '–'
  if (label === 'a' || label === 'b') return t('comparisons.wins', { letter: label.toUpperCase() })
  return label === 'tie' ? t('comparisons.tie') : label
}

/** The label of a pair, or the order of more. */
function consensusOf({ label, ranking }: Pick<Comparison, 'label' | 'ranking'>): string {
  if (label === null && ranking) return rankingText(ranking.map((group) => group.map((letter) => letter.toUpperCase())))
  return labelName(label)
}

function Tally({ votes }: { votes: Comparison['votes'] }) {
  return (
    <div className={styles.tally}>
      <span className="tabular small">
        A {votes.a} · {t('comparisons.tieShort')} {votes.tie} · B {votes.b}
      </span>
      <div className={styles.bar} aria-hidden="true">
        <span style={{ flexGrow: votes.a }} />
        <span style={{ flexGrow: votes.tie }} />
        <span style={{ flexGrow: votes.b }} />
      </div>
    </div>
  )
}

export default function Comparisons() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, change] = useAddress()
  const state = STATES.find(([value]) => value === search.get('state'))?.[0] ?? ''
  const round = search.get('round') ?? ''
  const list = useInfiniteQuery(comparisonsQuery(slug, { state, round }))
  const [open, setOpen] = useState<Comparison | null>(null)
  const { canManage } = useMembership(slug)
  const [sending, setSending] = useState(false)
  const [sent, setSent] = useState<Sent | null>(null)

  const columns: Column<Comparison>[] = [
    {
      name: 'prompt',
      header: t('comparisons.prompt'),
      wrap: true,
      cell: (row) => (
        <Button look="text" onClick={() => setOpen(row)}>
          {promptLine(row.prompt, 110)}
        </Button>
      ),
    },
    { name: 'category', header: t('prompts.category'), cell: (row) => <span className="muted">{row.category}</span> },
    {
      name: 'votes',
      header: t('comparisons.votes'),
      cell: (row) =>
        row.completions.length === 2 ? <Tally votes={row.votes} /> : t('home.votes', { n: row.votes_counted }),
    },
    {
      name: 'state',
      header: t('comparisons.state'),
      cell: (row) => <Badge tone={TONES[row.state]}>{stateName(row.state)}</Badge>,
    },
    { name: 'label', header: t('comparisons.consensus'), cell: (row) => consensusOf(row) },
    {
      name: 'prob',
      header: t('comparisons.prob'),
      align: 'end',
      cell: (row) => (row.prob === null ? '–' : fixed(row.prob)),
    },
    {
      name: 'frozen',
      header: t('comparisons.frozen'),
      cell: (row) =>
        row.frozen ? (
          <span title={t('comparisons.frozenWhy')}>
            <Lock size={15} aria-label={t('comparisons.frozen')} />
          </span>
        ) : null,
    },
  ]
  return (
    <Page
      title={t('nav.comparisons')}
      intro={t('comparisons.intro')}
      actions={
        canManage && (
          <Button onClick={() => setSending(true)}>
            <Gavel size={16} aria-hidden="true" />
            {t('send.title')}
          </Button>
        )
      }
    >
      {sent && (
        <Notice tone="ok" role="status">
          {t('send.sent', { n: sent.sent })}{' '}
          {sent.matched > sent.sent && t('send.rest', { n: sent.matched - sent.sent })}
        </Notice>
      )}
      {sending && (
        <SendToAdjudication
          slug={slug}
          onClose={() => setSending(false)}
          onSent={(result) => {
            setSending(false)
            setSent(result)
          }}
        />
      )}
      <Filters
        label={t('comparisons.filter')}
        options={STATES.map(([value, label]) => [value, t(label)] as const)}
        value={state}
        onChoose={(value) => change({ state: value })}
        only={round ? { label: t('comparisons.oneRound'), onRemove: () => change({ round: '' }) } : null}
      />
      <Card flush>
        <Loaded
          query={list}
          what={t('comparisons.failed')}
          skeleton={
            <div style={{ padding: '0 24px' }}>
              <Skeleton rows={10} />
            </div>
          }
        >
          {(rows) =>
            rows.length === 0 ? (
              <Empty
                icon={Scale}
                title={state || round ? t('comparisons.noneHere') : t('comparisons.none')}
                action={
                  !state && !round && <LinkButton href={`/r/${slug}/rounds?new=1`}>{t('overview.sample')}</LinkButton>
                }
              >
                {state || round ? t('comparisons.noneHereText') : t('comparisons.noneText')}
              </Empty>
            ) : (
              <DataTable
                caption={t('nav.comparisons')}
                columns={columns}
                rows={rows}
                rowKey={(row) => row.id}
                more={list}
              />
            )
          }
        </Loaded>
      </Card>
      {open && <Detail slug={slug} comparison={open} onClose={() => setOpen(null)} />}
    </Page>
  )
}

function Detail({ slug, comparison, onClose }: { slug: string; comparison: Comparison; onClose: () => void }) {
  const { id, prompt, completions, votes_counted, votes_wanted, state, prob, category } = comparison
  return (
    <Dialog title={t('comparisons.one')} onClose={onClose} width={1080}>
      <Facts
        items={[
          [
            t('comparisons.state'),
            <Badge key="state" tone={TONES[state]}>
              {stateName(state)}
            </Badge>,
          ],
          [t('comparisons.votes'), t('comparisons.votesOf', { given: votes_counted, wanted: votes_wanted })],
          [t('comparisons.consensus'), `${consensusOf(comparison)}${prob === null ? '' : ` · P(A) ${fixed(prob)}`}`],
          [t('prompts.category'), category || '–'],
          [t('comparisons.id'), <code key="id">{id}</code>],
        ]}
      />
      <Conversation turns={prompt} prefix={`${id}-p`} compact />
      <div className={styles.pair}>
        {completions.map((completion) => (
          <section
            key={completion.label}
            className={styles.completion}
            aria-label={t('comparisons.completion', { letter: completion.label.toUpperCase() })}
          >
            <header>
              <strong>{completion.label.toUpperCase()}</strong>
              <span>
                {completion.source}
                {completion.finish === 'length' && ` · ${t('comparisons.cut')}`}
              </span>
            </header>
            <Markdown text={completion.text} prefix={`${id}-${completion.label}-`} />
          </section>
        ))}
      </div>
      <Behind slug={slug} id={id} />
    </Dialog>
  )
}
