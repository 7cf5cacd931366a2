/** One snapshot: what is in it, under which rule it was frozen, and how to take it away. */
import { useQuery } from '@tanstack/react-query'
import { Cpu, Download } from 'lucide-react'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import { snapshotReachQuery } from 'src/api/modelsApi'
import { exportPath, snapshotQuery } from 'src/api/queries'
import type { Snapshot } from 'src/api/schema'
import { exportSumQuery } from 'src/api/snapshotsApi'
import { ruleFacts } from 'src/training/labelRule'
import { joined, rowsGraph, sourcesGraph } from 'src/training/lineageNodes'
import { SimilarPairs } from 'src/training/SimilarPairs'
import { DataCard } from 'src/training/SnapshotCard'
import { SinceBefore } from 'src/training/SnapshotDiff'
import styles from 'src/training/Snapshots.module.css'
import { Splits } from 'src/training/Splits'
import { EstimateFigure } from 'src/ui/charts/Estimate'
import { LineageGraph } from 'src/ui/charts/Lineage'
import { bytes, count, exactTime, measured } from 'src/ui/format'
import { hasWords, t } from 'src/ui/i18n/t'
import { CopyBox, CopyButton, Stat } from 'src/ui/widgets/Bits'
import { DownloadLink, LinkButton } from 'src/ui/widgets/Button'
import { SelectField } from 'src/ui/widgets/Field'
import { Card, Columns, Facts, Page } from 'src/ui/widgets/Page'
import { ReachLists } from 'src/ui/widgets/Reach'
import { Loaded, Notice, Skeleton, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

const LAYOUTS = ['trl', 'plain', 'winnow'] as const
const SPLITS = ['all', 'train', 'validation', 'test'] as const

export default function SnapshotPage() {
  const { slug = '', id = '' } = useParams<{ slug: string; id: string }>()
  const snapshot = useQuery(snapshotQuery(slug, id))
  const { canManage } = useMembership(slug)
  const title = snapshot.data ? t('snapshot.title', { number: snapshot.data.number }) : t('nav.snapshots')
  return (
    <Page
      title={title}
      heading={
        <>
          {title}
          {snapshot.data?.name && <span className="muted"> · {snapshot.data.name}</span>}
        </>
      }
      above={<Link href={`/r/${slug}/snapshots`}>{t('nav.snapshots')}</Link>}
      intro={
        snapshot.data &&
        t('snapshot.by', {
          when: exactTime(snapshot.data.created_at),
          who: snapshot.data.created_by ?? t('snapshot.somebody'),
        })
      }
      actions={
        canManage && (
          <LinkButton href={`/r/${slug}/jobs/new?snapshot=${id}`} look="primary">
            <Cpu size={16} aria-hidden="true" />
            {t('needs.trainAction')}
          </LinkButton>
        )
      }
    >
      <Loaded query={snapshot} what={t('snapshot.oneFailed')} skeleton={<SkeletonBoxes boxes={3} height={200} />}>
        {(data) => <Body slug={slug} snapshot={data} />}
      </Loaded>
    </Page>
  )
}

function Body({ slug, snapshot }: { slug: string; snapshot: Snapshot }) {
  const { counts, ties, agreement, content_hash: hash } = snapshot
  const kind = `snapshot.kind.${snapshot.kind}`
  return (
    <>
      {snapshot.erased > 0 && <Notice tone="warn">{t('snapshot.erased', { n: snapshot.erased })}</Notice>}
      <Columns width={380}>
        <Card title={t('snapshot.contents')}>
          <div className={styles.figures}>
            <Stat label={t('snapshot.preferencesColumn')} value={count(counts.total)} />
            <Stat label={t('snapshot.ties')} value={count(ties)} />
            <Stat label={t('snapshot.jobs')} value={count(snapshot.jobs)} />
            {snapshot.erased > 0 && <Stat label={t('snapshot.erasedStat')} value={count(snapshot.erased)} />}
          </div>
          <Splits train={counts.train} validation={counts.validation} test={counts.test} />
          <Facts
            items={[
              [
                'sha256',
                <span key="hash" className={styles.full}>
                  {hash}
                </span>,
              ],
              [t('snapshot.kind'), hasWords(kind) ? t(kind as 'snapshot.kind.preferences') : snapshot.kind],
              ...(snapshot.leak
                ? [
                    [
                      t('snapshot.leak'),
                      t('snapshot.leakShares', {
                        prompt: measured(100 * snapshot.leak.prompt),
                        completion: measured(100 * snapshot.leak.completion),
                      }),
                    ] as [string, string],
                  ]
                : []),
            ]}
          />
          <div>
            <CopyButton text={hash} label="sha256" />
          </div>
        </Card>
        <Card title={t('agreement.title')}>
          <EstimateFigure label={t('agreement.percent')} estimate={agreement.percent} unit="percent" bar />
          <EstimateFigure label={t('agreement.alpha')} estimate={agreement.alpha} unit="coefficient" bar />
          {snapshot.ceiling && (
            <EstimateFigure
              label={t('snapshot.ceiling')}
              estimate={snapshot.ceiling.test.ceiling}
              unit="percent"
              note={t('snapshot.ceilingNote', { n: snapshot.ceiling.test.ceiling.n })}
              bar
            />
          )}
        </Card>
      </Columns>
      <DataCard slug={slug} snapshot={snapshot} />
      <SimilarPairs slug={slug} snapshot={snapshot} />
      <SinceBefore slug={slug} id={snapshot.id} />
      <Trained slug={slug} snapshot={snapshot} />
      <Downloads slug={slug} snapshot={snapshot} />
      <Card title={t('snapshot.rule')} note={t('snapshot.ruleNote')}>
        <Facts items={ruleFacts(snapshot)} />
        <details>
          <summary className={styles.summary}>{t('rule.raw')}</summary>
          <section className={styles.raw} tabIndex={0} aria-label={t('rule.raw')}>
            <pre>{JSON.stringify({ label_policy: snapshot.label_policy, split: snapshot.split }, null, 2)}</pre>
          </section>
        </details>
      </Card>
    </>
  )
}

/** Forward: what was trained on it, and on what that made. */
function Trained({ slug, snapshot }: { slug: string; snapshot: Snapshot }) {
  const reach = useQuery(snapshotReachQuery(slug, snapshot.id))
  return (
    <Card title={t('lineage.ofSnapshot')} note={t('lineage.ofSnapshotNote')}>
      <Loaded query={reach} what={t('lineage.failed')}>
        {(found) => (
          <>
            <LineageGraph
              label={t('lineage.graph')}
              here={snapshot.id}
              {...joined(
                rowsGraph(slug, { ...found, snapshots: [snapshot] }),
                sourcesGraph(slug, snapshot.id, found.sources),
              )}
            />
            <ReachLists slug={slug} found={{ ...found, snapshots: [] }} nothing={t('lineage.noneOfSnapshot')} />
          </>
        )}
      </Loaded>
    </Card>
  )
}

function Downloads({ slug, snapshot }: { slug: string; snapshot: Snapshot }) {
  const [layout, setLayout] = useState<string>('trl')
  const [split, setSplit] = useState<string>('train')
  const path = exportPath(slug, snapshot.id, layout, split)
  return (
    <Card
      title={t('export.title')}
      note={t(layout === 'trl' ? 'export.trlNote' : layout === 'plain' ? 'export.plainNote' : 'export.winnowNote')}
    >
      <div className={styles.downloads}>
        <SelectField
          label={t('export.layout')}
          value={layout}
          onChange={(event) => setLayout(event.target.value)}
          options={LAYOUTS.map((name): [string, string] => [name, t(`export.layout.${name}`)])}
        />
        <SelectField
          label={t('export.split')}
          value={split}
          onChange={(event) => setSplit(event.target.value)}
          options={SPLITS.map((name): [string, string] => [name, t(`split.${name}`)])}
        />
        <DownloadLink href={path} look="primary">
          <Download size={16} aria-hidden="true" />
          {t('export.download')}
        </DownloadLink>
      </div>
      <Sum slug={slug} snapshot={snapshot} layout={layout} split={split} />
      <CopyBox
        label={t('job.asCurl')}
        text={`curl -H "Authorization: Bearer $WINNOW_TOKEN" \\\n  "${window.location.origin}${path}" -o snapshot-${snapshot.number}-${split}.jsonl`}
      />
    </Card>
  )
}

type SumProps = { slug: string; snapshot: Snapshot; layout: string; split: string }

/** What the downloaded file must be, for whoever checks it. */
function Sum({ slug, snapshot, layout, split }: SumProps) {
  const sum = useQuery(exportSumQuery(slug, snapshot.id, snapshot.erased, layout, split))
  return (
    <Loaded query={sum} what={t('export.sumFailed')} skeleton={<Skeleton rows={2} />}>
      {({ name, lines, size_bytes, sha256 }) => (
        <Facts
          items={[
            [t('export.file'), <span key="name">{name}</span>],
            [t('export.lines'), `${count(lines)} · ${bytes(size_bytes)}`],
            [
              t('export.sum'),
              <span key="sum" className={styles.full}>
                {sha256}
              </span>,
            ],
          ]}
        />
      )}
    </Loaded>
  )
}
