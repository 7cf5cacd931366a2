/** What is behind a comparison: votes by pseudonym, flags, rulings, and whether it is gold. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { voteReachQuery } from 'src/api/modelsApi'
import type { InspectedComparison } from 'src/api/schema'
import { comparisonQuery } from 'src/api/setup'
import { DASH, duration } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card } from 'src/ui/widgets/Page'
import { ReachLists } from 'src/ui/widgets/Reach'
import { Loaded, Notice } from 'src/ui/widgets/States'

type Vote = InspectedComparison['votes'][number]

const voteColumns = (): Column<Vote>[] => [
  { name: 'who', header: t('behind.annotator'), cell: (row) => row.annotator },
  { name: 'purpose', header: t('records.purpose'), cell: (row) => t(`purpose.${row.purpose}`) },
  { name: 'choice', header: t('adjudicate.vote'), cell: (row) => row.choice || DASH },
  {
    name: 'rest',
    header: t('behind.rest'),
    wrap: true,
    cell: (row) => <code style={{ overflowWrap: 'anywhere' }}>{JSON.stringify(row.answer)}</code>,
  },
  {
    name: 'counted',
    header: t('behind.counted'),
    cell: (row) => (row.retracted ? t('behind.retracted') : row.counted ? t('form.yes') : t('form.no')),
  },
  {
    name: 'time',
    header: t('records.time'),
    align: 'end',
    cell: (row) => (row.active_ms === null ? DASH : duration(row.active_ms / 1000)),
  },
]

export function Behind({ slug, id }: { slug: string; id: string }) {
  const found = useQuery(comparisonQuery(slug, id))
  const [traced, setTraced] = useState<Vote | null>(null)
  const columns: Column<Vote>[] = [
    ...voteColumns(),
    {
      name: 'lineage',
      header: <span className="visually-hidden">{t('action.actions')}</span>,
      align: 'end',
      cell: (row) => (
        <Button small look="quiet" aria-pressed={traced?.id === row.id} onClick={() => setTraced(row)}>
          {t('lineage.ofVote')}
        </Button>
      ),
    },
  ]
  return (
    <Loaded query={found} what={t('comparisons.failed')}>
      {({ votes, flags, adjudications, gold, cannot_judge, audience }) => (
        <>
          {votes.length > 0 && (
            <Card flush title={t('people.votes')}>
              <DataTable caption={t('people.votes')} columns={columns} rows={votes} rowKey={(row) => row.id} />
            </Card>
          )}
          {traced && <Trace slug={slug} vote={traced} />}
          {gold && (
            <Notice>
              <Badge tone="warn">{t('nav.gold')}</Badge> {gold.use} · {JSON.stringify(gold.answer)} {gold.explanation}
            </Notice>
          )}
          {flags.map((flag) => (
            <Notice key={flag.annotator + flag.kind} tone="warn">
              <Badge>{flag.kind}</Badge> {flag.annotator}: {flag.note} <Time at={flag.created_at} />
            </Notice>
          ))}
          {adjudications.map((fact) => (
            <Notice key={fact.id}>
              <Badge>{t(`adjudicate.kind.${fact.kind}`)}</Badge> {fact.by}: {fact.reason}{' '}
              {fact.answer && JSON.stringify(fact.answer)} <Time at={fact.created_at} />
            </Notice>
          ))}
          {(cannot_judge > 0 || audience !== '') && (
            <p className="muted">
              {cannot_judge > 0 && t('behind.cannotJudge', { n: cannot_judge })}{' '}
              {audience !== '' && t('behind.audience', { audience })}
            </p>
          )}
        </>
      )}
    </Loaded>
  )
}

/** Every snapshot, job and model that a vote went into. */
function Trace({ slug, vote }: { slug: string; vote: Vote }) {
  const reach = useQuery(voteReachQuery(slug, vote.id))
  return (
    <Card title={t('lineage.ofVoteTitle', { who: vote.annotator })}>
      <Loaded query={reach} what={t('lineage.failed')}>
        {(found) => (
          <ReachLists
            slug={slug}
            found={found}
            nothing={t(found.counts ? 'lineage.voteNothing' : 'lineage.voteUncounted')}
          />
        )}
      </Loaded>
    </Card>
  )
}
