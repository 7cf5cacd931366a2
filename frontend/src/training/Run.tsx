/** One job while it runs and after: state, curves, samples, config, log, attempts and checkpoints. */
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Copy, PackageCheck, RotateCw, Square } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { alarmsQuery } from 'src/api/modelsApi'
import { cancelJob, isOver, jobQuery, keys, promoteJob, retryJob } from 'src/api/queries'
import type { JobDetail } from 'src/api/schema'
import { AlarmCard } from 'src/training/AlarmCard'
import { OfCeiling } from 'src/training/OfCeiling'
import styles from 'src/training/Run.module.css'
import { ConfigTab, CurvesTab, HistoryTab, LogTab, SamplesTab } from 'src/training/RunTabs'
import { duration, interval, measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { Progress, Stat, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, SelectField, TextField } from 'src/ui/widgets/Field'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Page, Stack } from 'src/ui/widgets/Page'
import { ErrorPanel, Guard, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Tabs } from 'src/ui/widgets/Tabs'
import { Link, useParams, useSearchParams } from 'wouter'

const TABS = ['curves', 'samples', 'config', 'log', 'history'] as const
type Tab = (typeof TABS)[number]

export default function Run() {
  const { slug = '', id = '' } = useParams<{ slug: string; id: string }>()
  const job = useQuery(jobQuery(slug, id))
  const title = job.data ? job.data.title : t('nav.jobs')
  return (
    <Page
      title={title}
      heading={
        <span style={{ display: 'inline-flex', gap: 12, alignItems: 'center', flexWrap: 'wrap' }}>
          {title}
          {job.data && <JobStatus status={job.data.status} phase={job.data.phase} />}
        </span>
      }
      above={
        <>
          <Link href={`/r/${slug}/jobs`}>{t('nav.jobs')}</Link>
          {job.data && ` · #${job.data.number} · ${methodName(job.data.method)}`}
        </>
      }
      actions={job.data && <Actions slug={slug} job={job.data} />}
    >
      <Loaded query={job} what={t('run.failed')} skeleton={<SkeletonBoxes boxes={6} height={220} />}>
        {(data) => <Body slug={slug} job={data} />}
      </Loaded>
    </Page>
  )
}

function Actions({ slug, job }: { slug: string; job: JobDetail }) {
  const { canManage } = useMembership(slug)
  const client = useQueryClient()
  const [promoting, setPromoting] = useState(false)
  const changed = (result: JobDetail) => {
    client.setQueryData([...keys.project(slug), 'job', job.id], result)
    void client.invalidateQueries({ queryKey: keys.project(slug) })
  }
  const stop = useMutation({ mutationFn: () => cancelJob(slug, job.id), onSuccess: changed })
  const retry = useMutation({ mutationFn: () => retryJob(slug, job.id), onSuccess: changed })
  if (!canManage) return null
  const failed = stop.error ?? retry.error
  return (
    <>
      {job.can.stop && (
        <Button busy={stop.isPending || job.phase === 'stopping'} onClick={() => stop.mutate()}>
          <Square size={15} aria-hidden="true" />
          {job.phase === 'stopping' ? t('run.stopping') : t('run.stop')}
        </Button>
      )}
      {job.can.retry && (
        <Button busy={retry.isPending} onClick={() => retry.mutate()}>
          <RotateCw size={15} aria-hidden="true" />
          {lastStep(job) === 0
            ? t('run.retry')
            : t(job.status === 'cancelled' ? 'run.continueFrom' : 'run.retryFrom', { step: lastStep(job) })}
        </Button>
      )}
      {job.method !== 'sample' && job.method !== 'convert' && (
        <LinkButton href={`/r/${slug}/jobs/new?from=${job.id}`}>
          <Copy size={15} aria-hidden="true" />
          {t('jobs.clone')}
        </LinkButton>
      )}
      {job.can.promote && (
        <Button look="primary" onClick={() => setPromoting(true)}>
          <PackageCheck size={16} aria-hidden="true" />
          {t('run.promote')}
        </Button>
      )}
      {failed && <ErrorPanel what={t('run.actionFailed')} error={failed} />}
      {promoting && <PromoteDialog slug={slug} job={job} onClose={() => setPromoting(false)} />}
    </>
  )
}

const lastStep = (job: JobDetail): number =>
  Math.max(...job.checkpoints.filter((checkpoint) => checkpoint.kept).map(({ step }) => step), 0)

function Body({ slug, job }: { slug: string; job: JobDetail }) {
  const [search, setSearch] = useSearchParams()
  const training = job.method !== 'sample' && job.method !== 'convert'
  const tabs = TABS.filter((name) => training || (name !== 'curves' && name !== 'samples'))
  const wanted = TABS.find((name) => name === search.get('tab'))
  const tab: Tab = wanted && tabs.includes(wanted) ? wanted : (tabs[0] ?? 'config')
  const promotion = search.get('promotion')
  const active = !isOver(job)
  return (
    <>
      {promotion && <Promotion slug={slug} id={promotion} />}
      <Produced slug={slug} job={job} />
      <Summary slug={slug} job={job} />
      <AlarmStrip slug={slug} job={job} />
      <Tabs
        label={t('run.tabs')}
        tabs={tabs.map((name): [Tab, string] => [name, t(`run.tab.${name}`)])}
        selected={tab}
        onSelect={(name) =>
          setSearch((params) => {
            params.set('tab', name)
            return params
          })
        }
      >
        <Guard key={tab}>
          {tab === 'curves' && <CurvesTab slug={slug} job={job} active={active} />}
          {tab === 'samples' && <SamplesTab slug={slug} job={job} active={active} />}
          {tab === 'config' && <ConfigTab slug={slug} job={job} />}
          {tab === 'log' && <LogTab slug={slug} job={job} active={active} />}
          {tab === 'history' && <HistoryTab job={job} />}
        </Guard>
      </Tabs>
    </>
  )
}

const TONES = {
  queued: 'plain',
  running: 'plain',
  succeeded: 'ok',
  failed: 'error',
  cancelled: 'plain',
} as const

/** What happened and what comes next, as the server explains it; and the end of the log where that may say more. */
function Explanation({ job }: { job: JobDetail }) {
  const { what, next_step, by_itself } = job.explanation
  if (job.status === 'succeeded' || (job.status === 'running' && job.phase === null && !next_step)) return null
  const stalled = job.phase === 'stalled'
  return (
    <Notice tone={stalled || (job.status === 'queued' && !by_itself) ? 'warn' : TONES[job.status]} role="status">
      <strong>{what}</strong>
      {stalled && (
        <div>
          {t('run.stalledHeard')} <Time at={job.heartbeat_at} />.
        </div>
      )}
      {next_step && (
        <div className={styles.next}>
          {!by_itself && <span className="muted">{t('run.next')} </span>}
          {next_step}
        </div>
      )}
      {job.status === 'failed' && job.error_tail && (
        <details>
          <summary>{t('run.errorTail')}</summary>
          <pre className={styles.tail}>{job.error_tail}</pre>
        </details>
      )}
    </Notice>
  )
}

/** Alarms of this job that nobody has answered, with what can be done; those that were are counted. */
function AlarmStrip({ slug, job }: { slug: string; job: JobDetail }) {
  const open = useInfiniteQuery({ ...alarmsQuery(slug, { job: job.id, open: 'true' }), enabled: job.alarms > 0 }).data
  if (job.alarms === 0 || !open || open.items.length === 0) return null
  return (
    <section aria-label={t('run.alarms', { n: open.items.length })}>
      <Stack>
        {open.items.map((alarm) => (
          <AlarmCard key={alarm.id} slug={slug} alarm={alarm} inJob />
        ))}
      </Stack>
    </section>
  )
}

/** Jobs beside this one: what it waits for, what it is a clone of, and the grid that it belongs to. */
function Relations({ slug, job }: { slug: string; job: JobDetail }) {
  const { depends_on, clone_of, sweep } = job
  if (depends_on.length === 0 && !clone_of && !sweep) return null
  return (
    <div className={styles.line}>
      {depends_on.length > 0 && (
        <span>
          {t(job.status === 'queued' ? 'jobs.waitsFor' : 'run.waitedFor')}{' '}
          {depends_on.map((one, index) => (
            <span key={one.id}>
              {index > 0 && ', '}
              <Link href={`/r/${slug}/jobs/${one.id}`}>
                #{one.number} {one.title}
              </Link>{' '}
              <JobStatus status={one.status} />
            </span>
          ))}
        </span>
      )}
      {clone_of && (
        <span>
          {t('jobs.cloneOf')}{' '}
          <Link href={`/r/${slug}/jobs/${clone_of.id}`}>
            #{clone_of.number} {clone_of.title}
          </Link>
        </span>
      )}
      {sweep && <Link href={`/r/${slug}/jobs?sweep=${sweep}`}>{t('run.sweep')}</Link>}
    </div>
  )
}

const TEST_FIRST = ['test/accuracy', 'test/vote_accuracy', 'test/loss', 'test/margin', 'test/longer_wins', 'test/nll']
const LIVE_FIRST = [
  'train/loss',
  'eval/loss',
  'eval/accuracy',
  'eval/vote_accuracy',
  'train/accuracy',
  'policy/margin',
  'rollout/kl',
]

function Summary({ slug, job }: { slug: string; job: JobDetail }) {
  const over = isOver(job)
  const names = [...(over ? TEST_FIRST : []), ...LIVE_FIRST]
    .filter((name) => typeof job.metrics[name] === 'number')
    .slice(0, 6)
  const range = (name: string): string | undefined => {
    const low = job.metrics[`${name}_low`]
    const high = job.metrics[`${name}_high`]
    return typeof low === 'number' && typeof high === 'number' ? interval(measured(low), measured(high)) : undefined
  }
  const pairs = job.metrics['test/pairs']
  return (
    <Card>
      <div className={styles.summary}>
        <Explanation job={job} />
        {!over && job.steps !== null && job.steps > 0 && (
          <Progress label={t('job.progress')} value={job.step ?? 0} max={job.steps} />
        )}
        <div className={styles.line}>
          {job.steps !== null && (
            <span>
              {t('job.stepOf', { step: job.step ?? 0, steps: job.steps })}
              {job.steps > 0 && ` (${Math.round(((job.step ?? 0) / job.steps) * 100)} %)`}
            </span>
          )}
          {!over && job.activity && <span>{job.activity}</span>}
          {!over && job.eta_seconds !== null && <span>{t('run.eta', { duration: duration(job.eta_seconds) })}</span>}
          {!over && job.tokens_per_second !== null && (
            <span>{t('run.speed', { n: Math.round(job.tokens_per_second) })}</span>
          )}
          {!over && job.heartbeat_at && (
            <span>
              {t('run.heartbeat')} <Time at={job.heartbeat_at} />
            </span>
          )}
          {over && job.started_at && job.ended_at && (
            <span>
              {t('run.took', { duration: duration((Date.parse(job.ended_at) - Date.parse(job.started_at)) / 1000) })}
            </span>
          )}
          {job.attempt > 1 && <span>{t('run.attempt', { attempt: job.attempt })}</span>}
          {job.snapshot && (
            <span>
              {t('run.on')}{' '}
              <Link href={`/r/${slug}/snapshots/${job.snapshot.id}`}>
                {t('snapshot.title', { number: job.snapshot.number })}
              </Link>
            </span>
          )}
          {job.priority !== 0 && <span>{t('run.priority', { n: job.priority })}</span>}
          {job.status === 'succeeded' && job.reason && job.reason !== 'done' && <span>{job.reason}</span>}
        </div>
        <Relations slug={slug} job={job} />
        {names.length > 0 && (
          <div className={styles.finals}>
            {names.map((name) => (
              <Stat
                key={name}
                label={name}
                value={measured(job.metrics[name])}
                note={
                  range(name) && (
                    <>
                      {range(name)}
                      {name.startsWith('test/') && typeof pairs === 'number' && ` · n ${measured(pairs)}`}
                      <OfCeiling name={name} value={job.metrics[name]} of={job.ceiling} />
                    </>
                  )
                }
              />
            ))}
          </div>
        )}
      </div>
    </Card>
  )
}

function Produced({ slug, job }: { slug: string; job: JobDetail }) {
  return (
    <>
      {job.produced.map((model) => (
        <Notice
          key={model.id}
          tone="ok"
          action={
            <>
              <LinkButton small href={`/r/${slug}/policies/${model.id}`}>
                {t('run.seeModel')}
              </LinkButton>
              {model.kind === 'policy' && (
                <LinkButton small look="primary" href={`/r/${slug}/rounds?new=1&policy=${model.id}`}>
                  {t('overview.sample')}
                </LinkButton>
              )}
            </>
          }
        >
          {t('run.produced', { name: model.name })}
        </Notice>
      ))}
    </>
  )
}

/** The conversion that a promotion started, followed until the model is there. */
function Promotion({ slug, id }: { slug: string; id: string }) {
  const convert = useQuery(jobQuery(slug, id)).data
  if (!convert) return null
  // Once registered, the model shows itself as a product of the conversion, here or on the training job.
  if (convert.status === 'succeeded') return <Produced slug={slug} job={convert} />
  return (
    <Notice
      tone={convert.status === 'failed' ? 'error' : 'plain'}
      role="status"
      action={
        <LinkButton small href={`/r/${slug}/jobs/${id}`}>
          {t('needs.look')}
        </LinkButton>
      }
    >
      {convert.status === 'failed'
        ? t('promote.failedLater', { reason: convert.reason })
        : t('promote.running', { title: convert.title })}{' '}
      <JobStatus status={convert.status} phase={convert.phase} />
    </Notice>
  )
}

function PromoteDialog({ slug, job, onClose }: { slug: string; job: JobDetail; onClose: () => void }) {
  const client = useQueryClient()
  const [, setSearch] = useSearchParams()
  const [name, setName] = useState(`${job.method}-${job.number}`)
  const [checkpoint, setCheckpoint] = useState('')
  const [current, setCurrent] = useState(false)
  const promote = useMutation({
    mutationFn: () =>
      promoteJob(slug, job.id, {
        name: name.trim(),
        ...(checkpoint ? { checkpoint } : {}),
        ...(current ? { current } : {}),
      }),
    onSuccess: async (convert) => {
      setSearch(
        (params) => {
          params.set('promotion', convert.id)
          return params
        },
        { replace: true },
      )
      onClose()
      await client.invalidateQueries({ queryKey: keys.project(slug) })
    },
  })
  const errors = fieldErrors(promote.error)
  const kept = job.checkpoints.filter((entry) => entry.kept)
  return (
    <Dialog
      title={t('promote.title')}
      onClose={onClose}
      onSubmit={() => promote.mutate()}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={promote.isPending}>
            {t('promote.submit')}
          </Button>
        </>
      }
    >
      <p className="muted">{t('promote.intro')}</p>
      <TextField
        label={t('promote.name')}
        error={errors.name}
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <SelectField
        label={t('promote.checkpoint')}
        error={errors.checkpoint}
        value={checkpoint}
        onChange={(event) => setCheckpoint(event.target.value)}
        options={[
          ['', t('promote.best')],
          ...kept.map((entry): [string, string] => [
            entry.id,
            t('promote.step', { step: entry.step, attempt: entry.attempt }),
          ]),
        ]}
      />
      <ChoiceCard
        kind="checkbox"
        label={t('newJob.makeCurrent')}
        note={t('newJob.makeCurrentNote')}
        checked={current}
        onChange={(event) => setCurrent(event.target.checked)}
      />
      {promote.isError && Object.keys(errors).length === 0 && (
        <ErrorPanel what={t('promote.failed')} error={promote.error} />
      )}
    </Dialog>
  )
}
