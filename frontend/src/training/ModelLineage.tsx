/** A model in the lineage: back to the people whose votes it was made of, and forward to what starts from it. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Download } from 'lucide-react'
import { modelListQuery, originQuery, votesDownload } from 'src/api/modelsApi'
import type { ModelCard, Origin } from 'src/api/schema'
import { joined, rowsGraph, sourcesGraph } from 'src/training/lineageNodes'
import styles from 'src/training/Models.module.css'
import { LineageGraph } from 'src/ui/charts/Lineage'
import { count } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { Stat } from 'src/ui/widgets/Bits'
import { DownloadLink } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card, Columns } from 'src/ui/widgets/Page'
import { JobLink, ModelLink, SnapshotLink } from 'src/ui/widgets/Reach'
import { Loaded } from 'src/ui/widgets/States'
import { Link } from 'wouter'

export function ModelLineage({ slug, model }: { slug: string; model: ModelCard }) {
  return (
    <>
      <Graph slug={slug} model={model} />
      <Columns width={420}>
        <MadeOf slug={slug} id={model.id} />
        <Uses slug={slug} model={model} />
      </Columns>
    </>
  )
}

/** Drawn where there is something behind the model; the lists below are there in any case. */
function Graph({ slug, model }: { slug: string; model: ModelCard }) {
  const origin = useQuery(originQuery(slug, model.id))
  if (!origin.data || origin.data.jobs.length + origin.data.models.length === 0) return null
  const { jobs, models, snapshots, shares, links } = origin.data
  const own = { ...model, archived_at: model.archived_at ?? null }
  const { nodes, edges } = joined(
    rowsGraph(slug, { models: [own, ...models], jobs, snapshots, links }),
    ...shares.map((share) => sourcesGraph(slug, share.snapshot.id, share.sources, share.votes)),
  )
  return (
    <Card title={t('lineage.graph')} note={t('lineage.graphNote')}>
      <LineageGraph label={t('lineage.graph')} nodes={nodes} edges={edges} here={model.id} />
    </Card>
  )
}

function MadeOf({ slug, id }: { slug: string; id: string }) {
  const origin = useQuery(originQuery(slug, id))
  const votes = origin.data?.votes ?? 0
  return (
    <Card
      title={t('lineage.made')}
      note={t('lineage.madeNote')}
      actions={
        votes > 0 && (
          <DownloadLink small href={votesDownload(slug, id)}>
            <Download size={15} aria-hidden="true" />
            {t('lineage.allVotes')}
          </DownloadLink>
        )
      }
    >
      <Loaded query={origin} what={t('lineage.failed')}>
        {(found) => <Found slug={slug} origin={found} />}
      </Loaded>
    </Card>
  )
}

function Found({ slug, origin }: { slug: string; origin: Origin }) {
  const { jobs, models, shares, annotators } = origin
  if (jobs.length + models.length + shares.length === 0) return <p className="muted">{t('lineage.nothingBehind')}</p>
  const columns: Column<Origin['shares'][number]>[] = [
    {
      name: 'snapshot',
      header: t('lineage.share'),
      cell: ({ snapshot }) => <SnapshotLink slug={slug} snapshot={snapshot} />,
    },
    {
      name: 'comparisons',
      header: t('lineage.comparisons'),
      align: 'end',
      cell: ({ comparisons }) => count(comparisons),
    },
    { name: 'votes', header: t('lineage.votes'), align: 'end', cell: ({ votes }) => count(votes) },
    { name: 'people', header: t('lineage.people'), align: 'end', cell: ({ people }) => count(people) },
  ]
  return (
    <>
      <div className={styles.figures}>
        <Stat label={t('lineage.votes')} value={count(origin.votes)} />
        <Stat label={t('lineage.people')} value={count(origin.people)} />
        <Stat label={t('lineage.comparisons')} value={count(origin.comparisons)} />
      </div>
      {shares.length > 0 && (
        <div className={styles.flush}>
          <DataTable
            caption={t('lineage.snapshots')}
            columns={columns}
            rows={shares}
            rowKey={({ snapshot }) => snapshot.id}
          />
        </div>
      )}
      {models.length > 0 && (
        <section>
          <h3 className={styles.sub}>{t('lineage.models')}</h3>
          <ul className={styles.uses}>
            {models.map((one) => (
              <li key={one.id} className={styles.heading}>
                <ModelLink slug={slug} model={one} />
              </li>
            ))}
          </ul>
        </section>
      )}
      {jobs.length > 0 && (
        <section>
          <h3 className={styles.sub}>{t('lineage.jobs')}</h3>
          <ul className={styles.uses}>
            {jobs.map((job) => (
              <li key={job.id} className={styles.heading}>
                <JobLink slug={slug} job={job} />
                <span className="muted small">
                  {methodName(job.method)} ·{' '}
                  {t('lineage.runs', { n: origin.runs.filter((run) => run.job === job.id).length })}
                </span>
              </li>
            ))}
          </ul>
        </section>
      )}
      {annotators.length > 0 && (
        <details>
          <summary className={styles.summary}>{t('lineage.whoVoted')}</summary>
          <div className={`${styles.flush} ${styles.scroll}`}>
            <DataTable
              caption={t('lineage.whoVoted')}
              columns={personColumns()}
              rows={annotators}
              rowKey={(person) => person.pseudonym ?? '-'}
            />
          </div>
        </details>
      )}
    </>
  )
}

const personColumns = (): Column<Origin['annotators'][number]>[] => [
  {
    name: 'who',
    header: t('lineage.person'),
    cell: (person) => person.pseudonym ?? <span className="muted">{t('lineage.noMember')}</span>,
  },
  { name: 'votes', header: t('lineage.votes'), align: 'end', cell: (person) => count(person.votes) },
]

/** Jobs and rounds by number; the models made from it by name, for they are what a reader goes on to. */
function Uses({ slug, model }: { slug: string; model: ModelCard }) {
  const { jobs, models, rounds } = model.uses
  const all = useInfiniteQuery({ ...modelListQuery(slug, 'all'), enabled: models > 0 })
  const made = (all.data ?? []).filter((one) => one.base?.id === model.id)
  return (
    <Card title={t('lineage.uses')} note={t('lineage.usesNote')}>
      {jobs + models + rounds === 0 ? (
        <p className="muted">{t('lineage.noUses')}</p>
      ) : (
        <>
          <div className={styles.figures}>
            <Stat label={t('lineage.usesModels')} value={count(models)} />
            <Stat
              label={t('lineage.usesJobs')}
              value={jobs > 0 ? <Link href={`/r/${slug}/jobs`}>{count(jobs)}</Link> : 0}
            />
            <Stat
              label={t('lineage.usesRounds')}
              value={rounds > 0 ? <Link href={`/r/${slug}/rounds`}>{count(rounds)}</Link> : 0}
            />
          </div>
          {models > 0 && (
            <Loaded query={all} what={t('models.failed')}>
              {() => (
                <ul className={styles.uses}>
                  {made.map((one) => (
                    <li key={one.id} className={styles.heading}>
                      <ModelLink slug={slug} model={one} />
                      <span className="muted small">{t(`model.kind.${one.kind}`)}</span>
                    </li>
                  ))}
                </ul>
              )}
            </Loaded>
          )}
        </>
      )}
    </Card>
  )
}
