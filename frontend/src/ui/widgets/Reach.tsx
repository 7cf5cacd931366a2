/** What came of some votes, with links: snapshots that used them, jobs and models trained on those. */
import type { Reach as Found, LineageJob, LineageModel, LineageSnapshot } from 'src/api/schema'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { Badge } from 'src/ui/widgets/Bits'
import styles from 'src/ui/widgets/Reach.module.css'
import { Link } from 'wouter'

export function SnapshotLink({ slug, snapshot }: { slug: string; snapshot: LineageSnapshot }) {
  return (
    <Link href={`/r/${slug}/snapshots/${snapshot.id}`}>
      {t('snapshot.title', { number: snapshot.number })}
      {snapshot.name && ` · ${snapshot.name}`}
    </Link>
  )
}

export function JobLink({ slug, job }: { slug: string; job: Pick<LineageJob, 'id' | 'number' | 'method' | 'title'> }) {
  return (
    <Link href={`/r/${slug}/jobs/${job.id}`}>
      #{job.number} {job.title || methodName(job.method)}
    </Link>
  )
}

export function ModelLink({ slug, model }: { slug: string; model: LineageModel }) {
  return (
    <>
      <Link href={`/r/${slug}/policies/${model.id}`}>{model.name}</Link>
      {model.is_current && <Badge tone="ok">{t('models.current')}</Badge>}
      {model.archived_at && <Badge>{t('models.archived')}</Badge>}
    </>
  )
}

type ReachProps = { slug: string; found: Pick<Found, 'snapshots' | 'jobs' | 'models' | 'runs'>; nothing: string }

/** All lists in their order, models first: they are what a decision touches most. */
export function ReachLists({ slug, found, nothing }: ReachProps) {
  const { snapshots, jobs, models, runs } = found
  if (snapshots.length + jobs.length + models.length === 0) return <p className="muted">{nothing}</p>
  const runsOf = (job: LineageJob) => runs.filter((run) => run.job === job.id).length
  return (
    <div className={styles.reach}>
      {models.length > 0 && (
        <section>
          <h3>{t('lineage.models')}</h3>
          <ul>
            {models.map((model) => (
              <li key={model.id}>
                <ModelLink slug={slug} model={model} />
                <span className="muted small">
                  {t(model.kind === 'reward' ? 'model.kind.reward' : 'model.kind.policy')}
                </span>
              </li>
            ))}
          </ul>
        </section>
      )}
      {jobs.length > 0 && (
        <section>
          <h3>{t('lineage.jobs')}</h3>
          <ul>
            {jobs.map((job) => (
              <li key={job.id}>
                <JobLink slug={slug} job={job} />
                <span className="muted small">
                  {methodName(job.method)} · {t('lineage.runs', { n: runsOf(job) })}
                </span>
              </li>
            ))}
          </ul>
        </section>
      )}
      {snapshots.length > 0 && (
        <section>
          <h3>{t('lineage.snapshots')}</h3>
          <ul>
            {snapshots.map(({ snapshot, comparisons }) => (
              <li key={snapshot.id}>
                <SnapshotLink slug={slug} snapshot={snapshot} />
                <span className="muted small tabular">{t('lineage.used', { n: comparisons })}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
    </div>
  )
}
