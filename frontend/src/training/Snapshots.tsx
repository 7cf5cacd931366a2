/** Frozen preferences: the list, and the freezing itself with its effect shown beforehand. */
import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Camera, Snowflake } from 'lucide-react'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import {
  type Aggregator,
  type FreezeRule,
  freeze,
  keys,
  projectQuery,
  snapshotPreviewQuery,
  snapshotsQuery,
  type TieRule,
} from 'src/api/queries'
import type { Snapshot } from 'src/api/schema'
import styles from 'src/training/Snapshots.module.css'
import { Splits } from 'src/training/Splits'
import { EstimateInline } from 'src/ui/charts/Estimate'
import { count } from 'src/ui/format'
import { hasWords, t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Hash, Stat, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { SelectField, TextField } from 'src/ui/widgets/Field'
import { Card, Columns, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link, useLocation, useParams } from 'wouter'

export default function Snapshots() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, change] = useAddress()
  const list = useInfiniteQuery(snapshotsQuery(slug))
  const open = search.get('freeze') === '1'
  const toggle = (on: boolean) => change({ freeze: on ? '1' : '' })
  const columns: Column<Snapshot>[] = [
    {
      name: 'name',
      header: t('snapshot.name'),
      cell: (row) => (
        <Link href={`/r/${slug}/snapshots/${row.id}`}>
          {t('snapshot.title', { number: row.number })}
          {row.name && ` · ${row.name}`}
        </Link>
      ),
    },
    {
      name: 'total',
      header: t('snapshot.preferencesColumn'),
      align: 'end',
      cell: (row) => (
        <>
          {count(row.counts.total)}
          {row.erased > 0 && <div className="muted small nowrap">{t('snapshot.erasedOf', { n: row.erased })}</div>}
        </>
      ),
    },
    {
      name: 'splits',
      header: t('snapshot.splits'),
      align: 'end',
      cell: (row) => `${count(row.counts.train)} / ${count(row.counts.validation)} / ${count(row.counts.test)}`,
    },
    {
      name: 'alpha',
      header: t('agreement.alpha'),
      cell: (row) => <EstimateInline estimate={row.agreement.alpha} unit="coefficient" />,
    },
    { name: 'hash', header: 'sha256', cell: (row) => <Hash value={row.content_hash} /> },
    { name: 'jobs', header: t('snapshot.jobs'), align: 'end', cell: (row) => count(row.jobs) },
    { name: 'created', header: t('snapshot.frozenAt'), cell: (row) => <Time at={row.created_at} /> },
  ]
  const button = canManage && (
    <Button look="primary" onClick={() => toggle(true)}>
      <Snowflake size={16} aria-hidden="true" />
      {t('overview.freeze')}
    </Button>
  )
  return (
    <Page title={t('nav.snapshots')} intro={t('snapshot.intro')} actions={button}>
      <Card flush>
        <Loaded
          query={list}
          what={t('snapshot.failed')}
          skeleton={
            <div style={{ padding: '0 24px' }}>
              <Skeleton rows={6} />
            </div>
          }
        >
          {(rows) =>
            rows.length === 0 ? (
              <Empty icon={Camera} title={t('snapshot.none')} action={button}>
                {t('snapshot.noneText')}
              </Empty>
            ) : (
              <DataTable
                caption={t('nav.snapshots')}
                columns={columns}
                rows={rows}
                rowKey={(row) => row.id}
                more={list}
              />
            )
          }
        </Loaded>
      </Card>
      {open && canManage && <FreezeDialog slug={slug} onClose={() => toggle(false)} />}
    </Page>
  )
}

function FreezeDialog({ slug, onClose }: { slug: string; onClose: () => void }) {
  const client = useQueryClient()
  const [, navigate] = useLocation()
  const [minVotes, setMinVotes] = useState('1')
  const [tieRule, setTieRule] = useState<TieRule>('half')
  const project = useQuery(projectQuery(slug)).data
  const [chosen, setChosen] = useState<Aggregator | null>(null)
  const aggregator = chosen ?? project?.aggregator ?? 'dawid_skene'
  const [name, setName] = useState('')
  const votes = Math.max(1, Math.round(Number(minVotes)) || 1)
  const rule: FreezeRule = { aggregator, min_votes: votes, tie_rule: tieRule }
  const preview = useQuery({
    ...snapshotPreviewQuery(slug, rule),
    placeholderData: keepPreviousData,
  })
  const create = useMutation({
    mutationFn: () => freeze(slug, { ...rule, ...(name.trim() ? { name: name.trim() } : {}) }),
    onSuccess: async (snapshot) => {
      await client.invalidateQueries({ queryKey: keys.project(slug) })
      navigate(`/r/${slug}/snapshots/${snapshot.id}`)
    },
  })
  const n = preview.data?.preferences ?? 0
  return (
    <Dialog
      title={t('freeze.title')}
      onClose={onClose}
      width={640}
      onSubmit={() => create.mutate()}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={create.isPending} disabled={preview.data !== undefined && n === 0}>
            <Snowflake size={16} aria-hidden="true" />
            {create.isPending ? t('freeze.busy') : t('freeze.submit', { n })}
          </Button>
        </>
      }
    >
      <p className="muted">{t('freeze.intro')}</p>
      <Columns width={220}>
        <TextField
          label={t('freeze.minVotes')}
          help={t('freeze.minVotesHelp')}
          inputMode="numeric"
          value={minVotes}
          onChange={(event) => setMinVotes(event.target.value)}
        />
        <SelectField
          label={t('freeze.tieRule')}
          help={t(`freeze.tie.${tieRule}.help`)}
          value={tieRule}
          onChange={(event) => setTieRule(event.target.value === 'drop' ? 'drop' : 'half')}
          options={[
            ['half', t('freeze.tie.half')],
            ['drop', t('freeze.tie.drop')],
          ]}
        />
      </Columns>
      <SelectField
        label={t('freeze.aggregator')}
        help={aggregator === 'dawid_skene' ? t('freeze.aggregator.help') : undefined}
        value={aggregator}
        onChange={(event) => setChosen(event.target.value === 'majority' ? 'majority' : 'dawid_skene')}
        options={[
          ['dawid_skene', t('aggregator.dawid_skene')],
          ['majority', t('aggregator.majority')],
        ]}
      />
      <TextField label={t('freeze.name')} value={name} onChange={(event) => setName(event.target.value)} />
      <Loaded query={preview} what={t('freeze.previewFailed')} skeleton={<Skeleton rows={3} />}>
        {({ preferences, dropped, splits }) => (
          <div className={styles.preview} aria-live="polite">
            <div className={styles.figures}>
              <Stat label={t('freeze.kept')} value={count(preferences)} />
              {Object.entries(dropped)
                .filter(([, n]) => n > 0)
                .map(([reason, n]) => (
                  <Stat key={reason} label={t('freeze.dropped', { reason: dropReason(reason) })} value={count(n)} />
                ))}
            </div>
            {preferences > 0 ? <Splits {...splits} /> : <p>{t('freeze.nothing')}</p>}
          </div>
        )}
      </Loaded>
      {create.isError && <ErrorPanel what={t('freeze.failed')} error={create.error} />}
    </Dialog>
  )
}

/** A reason of a newer server is shown by its code rather than hidden. */
function dropReason(reason: string): string {
  const key = `freeze.reason.${reason}`
  return hasWords(key) ? t(key as 'freeze.reason.tie') : reason.replaceAll('_', ' ')
}
