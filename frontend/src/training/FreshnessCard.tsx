/** How fresh the comparisons are: how many show the policy that the project goes on from, and how old they are. */
import { useQuery } from '@tanstack/react-query'
import { freshnessQuery } from 'src/api/evaluationsApi'
import type { Freshness, PolicyPairs } from 'src/api/schema'
import styles from 'src/training/Rounds.module.css'
import { count, DASH, duration, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Stat } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card } from 'src/ui/widgets/Page'
import { Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const DAY_SECONDS = 86_400
export const age = (days: number): string => duration(days * DAY_SECONDS)

export function FreshnessCard({ slug }: { slug: string }) {
  const freshness = useQuery(freshnessQuery(slug))
  return (
    <Card title={t('freshness.title')} note={t('freshness.note')}>
      <Loaded query={freshness} what={t('freshness.failed')} skeleton={<Skeleton rows={3} />}>
        {(found) =>
          found.pairs === 0 ? <p className="muted">{t('freshness.none')}</p> : <Shown slug={slug} found={found} />
        }
      </Loaded>
    </Card>
  )
}

function Shown({ slug, found }: { slug: string; found: Freshness }) {
  const { current, pairs, share_current, median_age_days, by_policy } = found
  const columns: Column<PolicyPairs>[] = [
    {
      name: 'name',
      header: t('freshness.source'),
      wrap: true,
      cell: ({ name, model }) => (
        <>
          {model ? <Link href={`/r/${slug}/policies/${model}`}>{name}</Link> : name}{' '}
          {model !== null && model === current?.id && <Badge tone="ok">{t('freshness.isCurrent')}</Badge>}
        </>
      ),
    },
    { name: 'pairs', header: t('freshness.pairs'), align: 'end', cell: ({ pairs: n }) => count(n) },
    { name: 'share', header: t('freshness.share'), align: 'end', cell: ({ share }) => percent(share) },
    { name: 'age', header: t('freshness.newest'), align: 'end', cell: ({ age_days }) => age(age_days) },
  ]
  return (
    <>
      <div className={styles.stats}>
        <Stat
          label={t('freshness.current')}
          value={share_current === null ? DASH : percent(share_current)}
          note={
            current ? <Link href={`/r/${slug}/policies/${current.id}`}>{current.name}</Link> : t('freshness.noCurrent')
          }
        />
        <Stat
          label={t('freshness.age')}
          value={median_age_days === null ? DASH : age(median_age_days)}
          note={t('round.comparisons', { n: pairs })}
        />
      </div>
      {by_policy.length > 0 && (
        <details className={styles.more}>
          <summary>{t('freshness.bySource', { n: by_policy.length })}</summary>
          <DataTable
            caption={t('freshness.bySource', { n: by_policy.length })}
            columns={columns}
            rows={by_policy}
            rowKey={({ source }) => source}
          />
        </details>
      )}
    </>
  )
}
