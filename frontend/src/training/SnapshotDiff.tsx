/** Two snapshots against each other: what came, what went, and which labels flipped. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { GitCompareArrows } from 'lucide-react'
import { snapshotQuery, snapshotsQuery } from 'src/api/queries'
import type { ChangedPreference, PreferenceChangeEnum, SnapshotDifference } from 'src/api/schema'
import { snapshotDifferenceQuery } from 'src/api/snapshotsApi'
import styles from 'src/training/Snapshots.module.css'
import { excerpt, promptLine } from 'src/ui/content/Conversation'
import { count, DASH, fixed } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Stat, type Tone } from 'src/ui/widgets/Bits'
import { LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useLocation, useParams, useSearchParams } from 'wouter'

const CHANGES: PreferenceChangeEnum[] = ['flipped', 'added', 'removed']
const TONES: Record<PreferenceChangeEnum, Tone> = { flipped: 'warn', added: 'ok', removed: 'plain' }

export default function SnapshotDiff() {
  const { slug = '', id = '', other = '' } = useParams<{ slug: string; id: string; other: string }>()
  const [, navigate] = useLocation()
  const [search, setSearch] = useSearchParams()
  const change = CHANGES.find((name) => name === search.get('change')) ?? ''
  const snapshot = useQuery(snapshotQuery(slug, id)).data
  const all = useInfiniteQuery(snapshotsQuery(slug)).data ?? []
  const found = useQuery(snapshotDifferenceQuery(slug, id, other, change))
  const title = t('diff.title', {
    before: found.data?.since?.number ?? DASH,
    after: snapshot?.number ?? DASH,
  })
  return (
    <Page
      title={title}
      intro={t('diff.intro')}
      above={
        <>
          <Link href={`/r/${slug}/snapshots`}>{t('nav.snapshots')}</Link>
          {snapshot && (
            <>
              {' · '}
              <Link href={`/r/${slug}/snapshots/${id}`}>{t('snapshot.title', { number: snapshot.number })}</Link>
            </>
          )}
        </>
      }
    >
      <div className={styles.downloads}>
        <SelectField
          label={t('diff.against')}
          value={other}
          options={all
            .filter((one) => one.id !== id)
            .map((one): [string, string] => [
              one.id,
              `${t('snapshot.title', { number: one.number })}${one.name ? ` · ${one.name}` : ''}`,
            ])}
          onChange={(event) => navigate(`/r/${slug}/snapshots/${id}/diff/${event.target.value}`, { replace: true })}
        />
        <SelectField
          label={t('diff.show')}
          value={change}
          options={[['', t('diff.all')], ...CHANGES.map((name): [string, string] => [name, t(`diff.${name}`)])]}
          onChange={(event) => setSearch(event.target.value ? { change: event.target.value } : {}, { replace: true })}
        />
      </div>
      <Loaded query={found} what={t('diff.failed')} skeleton={<SkeletonBoxes boxes={2} height={160} />}>
        {(difference) => (
          <>
            <Card>
              <DifferenceFigures difference={difference} />
            </Card>
            <Card flush>
              <Rows difference={difference} change={change} />
            </Card>
          </>
        )}
      </Loaded>
    </Page>
  )
}

export function DifferenceFigures({ difference }: { difference: SnapshotDifference }) {
  const { added, removed, flipped, same } = difference
  return (
    <div className={styles.figures}>
      <Stat label={t('diff.added')} value={added > 0 ? `+${count(added)}` : 0} />
      <Stat label={t('diff.removed')} value={removed > 0 ? `−${count(removed)}` : 0} />
      <Stat label={t('diff.flipped')} value={count(flipped)} />
      <Stat label={t('diff.same')} value={count(same)} />
    </div>
  )
}

const prob = (value: number | null): string => (value === null ? DASH : fixed(value, 2))

function Rows({ difference, change }: { difference: SnapshotDifference; change: PreferenceChangeEnum | '' }) {
  const { items, since } = difference
  const total = change === '' ? difference.added + difference.removed + difference.flipped : difference[change]
  if (items.length === 0) {
    return (
      <Empty icon={GitCompareArrows} title={t(change === '' ? 'diff.none' : 'diff.noneSo')}>
        {since === null ? undefined : t('diff.noneText')}
      </Empty>
    )
  }
  const columns: Column<ChangedPreference>[] = [
    {
      name: 'change',
      header: t('diff.change'),
      cell: (row) => <Badge tone={TONES[row.change]}>{t(`diff.${row.change}`)}</Badge>,
    },
    { name: 'prompt', header: t('comparisons.prompt'), wrap: true, cell: (row) => promptLine(row.prompt, 100) },
    { name: 'chosen', header: t('diff.chosen'), wrap: true, cell: (row) => excerpt(row.chosen, 140) },
    {
      name: 'rejected',
      header: t('diff.rejected'),
      wrap: true,
      cell: (row) => <span className="muted">{excerpt(row.rejected, 140)}</span>,
    },
    { name: 'before', header: t('diff.before'), align: 'end', cell: (row) => prob(row.prob_before) },
    { name: 'after', header: t('diff.after'), align: 'end', cell: (row) => prob(row.prob_after) },
  ]
  return (
    <>
      <DataTable caption={t('diff.rows')} columns={columns} rows={items} rowKey={(row) => row.id + row.change} />
      {total > items.length && (
        <p className={`${styles.rest} muted small`}>{t('diff.rest', { shown: items.length, total: count(total) })}</p>
      )}
    </>
  )
}

/** On the page of a snapshot: how it differs from the one before. */
export function SinceBefore({ slug, id }: { slug: string; id: string }) {
  const found = useQuery(snapshotDifferenceQuery(slug, id))
  const since = found.data?.since
  if (found.data && !since) return null
  return (
    <Card
      title={since ? t('diff.since', { number: since.number }) : t('diff.sinceBefore')}
      actions={
        since && (
          <LinkButton small href={`/r/${slug}/snapshots/${id}/diff/${since.id}`}>
            <GitCompareArrows size={15} aria-hidden="true" />
            {t('diff.open')}
          </LinkButton>
        )
      }
    >
      <Loaded query={found} what={t('diff.failed')}>
        {(difference) => <DifferenceFigures difference={difference} />}
      </Loaded>
    </Card>
  )
}
