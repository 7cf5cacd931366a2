/** All jobs: what runs, what waits and for what; two or more of them beside each other; how many may run. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Copy, Cpu, GitCompareArrows, ListOrdered, MoreHorizontal, Plus, Siren } from 'lucide-react'
import { useState } from 'react'
import { changePriority, changeQuota, type JobFilter, jobListQuery, MOST_COMPARED, quotaQuery } from 'src/api/jobsApi'
import { useMembership } from 'src/api/membership'
import { isOver, methodsQuery } from 'src/api/queries'
import type { Job, Quota } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/training/Jobs.module.css'
import { numberOf } from 'src/training/wish'
import { count, duration } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { useAddress } from 'src/ui/useAddress'
import { Badge, Progress, Time, useNow } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { SelectField, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Menu, type MenuItem } from 'src/ui/widgets/Menu'
import { Page } from 'src/ui/widgets/Page'
import { Notice } from 'src/ui/widgets/States'
import { Link, useLocation, useParams } from 'wouter'

const STATUSES = ['queued', 'running', 'succeeded', 'failed', 'cancelled'] as const
/** Work that nobody launches by the form: it comes of rounds, promotions and chats. */
const BESIDES = ['sample', 'convert', 'serve'] as const

function Spent({ job }: { job: Job }) {
  const now = useNow()
  if (!job.started_at) return <>–</>
  const end = job.ended_at ? new Date(job.ended_at).getTime() : now
  return <>{duration((end - new Date(job.started_at).getTime()) / 1000)}</>
}

export default function Jobs() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, change] = useAddress()
  const [moved, setMoved] = useState<Job | null>(null)
  const methods = useQuery(methodsQuery(slug, '')).data ?? []
  const names = [...new Set([...methods.map(({ name }) => name), ...BESIDES])]
  const filter: JobFilter = {
    status: STATUSES.find((status) => status === search.get('status')),
    method: search.get('method') ?? undefined,
    sweep: search.get('sweep') ?? undefined,
  }
  const list = useInfiniteQuery(jobListQuery(slug, filter))
  const picked = (search.get('ids') ?? '').split(',').filter((id) => id !== '')
  const set = (name: string, value: string) => change({ [name]: value })
  const pick = (id: string, on: boolean) =>
    set('ids', (on ? [...picked, id] : picked.filter((one) => one !== id)).join(','))
  const isFiltered = filter.status !== undefined || filter.method !== undefined || filter.sweep !== undefined
  const button = canManage && (
    <LinkButton href={`/r/${slug}/jobs/new`} look="primary">
      <Plus size={16} aria-hidden="true" />
      {t('job.new')}
    </LinkButton>
  )
  const all: [string, string] = ['', t('jobs.all')]
  return (
    <Page title={t('nav.jobs')} intro={t('job.intro')} actions={button}>
      <QuotaLine slug={slug} />
      <div className={styles.bar}>
        <SelectField
          label={t('job.status')}
          value={filter.status ?? ''}
          onChange={(event) => set('status', event.target.value)}
          options={[all, ...STATUSES.map((status): [string, string] => [status, t(`status.${status}`)])]}
        />
        <SelectField
          label={t('job.method')}
          value={filter.method ?? ''}
          onChange={(event) => set('method', event.target.value)}
          options={[all, ...names.map((name): [string, string] => [name, methodName(name)])]}
        />
        <Picked slug={slug} picked={picked} clear={() => set('ids', '')} />
      </div>
      {filter.sweep && (
        <Notice
          action={
            <>
              {list.data && list.data.length > 1 && (
                <LinkButton
                  small
                  href={compareAddress(
                    slug,
                    list.data.slice(0, MOST_COMPARED).map(({ id }) => id),
                  )}
                >
                  {t('jobs.compareSweep')}
                </LinkButton>
              )}
              <Button small onClick={() => set('sweep', '')}>
                {t('jobs.showAll')}
              </Button>
            </>
          }
        >
          {t('jobs.inSweep', { n: list.data?.length ?? 0 })}
        </Notice>
      )}
      <ListCard
        title={t('nav.jobs')}
        query={list}
        failed={t('job.listFailed')}
        columns={columns(slug, { canManage, picked, pick, move: setMoved })}
        rowKey={(job) => job.id}
        empty={
          isFiltered
            ? { icon: Cpu, title: t('jobs.noneSo') }
            : { icon: Cpu, title: t('job.none'), text: t('job.noneText'), action: button }
        }
      />
      {moved && <PriorityDialog slug={slug} job={moved} onClose={() => setMoved(null)} />}
    </Page>
  )
}

const compareAddress = (slug: string, ids: readonly string[]) => `/r/${slug}/jobs/compare?ids=${ids.join(',')}`

function Picked({ slug, picked, clear }: { slug: string; picked: string[]; clear: () => void }) {
  if (picked.length === 0) return <p className={styles.hint}>{t('jobs.pickHint')}</p>
  return (
    <div className={styles.picked} role="status">
      <span>{t('jobs.picked', { n: picked.length })}</span>
      {picked.length >= 2 && picked.length <= MOST_COMPARED && (
        <LinkButton look="primary" href={compareAddress(slug, picked)}>
          <GitCompareArrows size={16} aria-hidden="true" />
          {t('jobs.compare')}
        </LinkButton>
      )}
      {picked.length > MOST_COMPARED && <span>{t('jobs.tooMany', { n: MOST_COMPARED })}</span>}
      <Button look="quiet" onClick={clear}>
        {t('jobs.clear')}
      </Button>
    </div>
  )
}

type Doing = {
  canManage: boolean
  picked: string[]
  pick: (id: string, on: boolean) => void
  move: (job: Job) => void
}

const isTraining = (job: Job): boolean => job.method !== 'sample' && job.method !== 'convert'

function columns(slug: string, { canManage, picked, pick, move }: Doing): Column<Job>[] {
  return [
    {
      name: 'pick',
      header: <span className="visually-hidden">{t('jobs.compare')}</span>,
      tools: true,
      cell: (job) =>
        isTraining(job) && (
          <input
            type="checkbox"
            className={styles.check}
            aria-label={t('jobs.pick', { number: job.number })}
            checked={picked.includes(job.id)}
            onChange={(event) => pick(job.id, event.target.checked)}
          />
        ),
    },
    { name: 'number', header: '#', align: 'end', cell: (job) => job.number },
    { name: 'title', header: t('job.title'), wrap: true, cell: (job) => <Title slug={slug} job={job} /> },
    { name: 'method', header: t('job.method'), cell: (job) => methodName(job.method) },
    { name: 'status', header: t('job.status'), cell: (job) => <JobStatus status={job.status} phase={job.phase} /> },
    { name: 'progress', header: t('job.progress'), cell: (job) => <HowFar job={job} /> },
    {
      name: 'model',
      header: t('jobs.given'),
      cell: (job) => (
        <>
          {job.model ? (
            <Link href={`/r/${slug}/policies/${job.model.id}`}>{job.model.name}</Link>
          ) : (
            !job.snapshot && '–'
          )}
          {job.snapshot && (
            <div className="small">
              <Link href={`/r/${slug}/snapshots/${job.snapshot.id}`}>
                {t('snapshot.title', { number: job.snapshot.number })}
              </Link>
            </div>
          )}
        </>
      ),
    },
    { name: 'spent', header: t('job.spent'), align: 'end', cell: (job) => <Spent job={job} /> },
    {
      name: 'created',
      header: t('job.created'),
      cell: (job) => (
        <>
          <Time at={job.created_at} />
          <div className="muted small">{job.created_by}</div>
        </>
      ),
    },
    {
      name: 'menu',
      header: <span className="visually-hidden">{t('jobs.menu')}</span>,
      tools: true,
      cell: (job) => canManage && <RowMenu slug={slug} job={job} move={move} />,
    },
  ]
}

function HowFar({ job }: { job: Job }) {
  if (!job.steps) return <>–</>
  return (
    <div style={{ minWidth: 110 }}>
      <span className="small tabular">{t('job.stepOf', { step: job.step ?? 0, steps: job.steps })}</span>
      {!isOver(job) && <Progress label={t('job.progress')} value={job.step ?? 0} max={job.steps} />}
    </div>
  )
}

/** What the job is, and under it what it waits for and what it came of. */
function Title({ slug, job }: { slug: string; job: Job }) {
  const waits = job.status === 'queued' ? job.depends_on.filter((one) => one.status !== 'succeeded') : []
  return (
    <>
      <Link href={`/r/${slug}/jobs/${job.id}`}>{job.title}</Link>
      <div className={styles.marks}>
        {job.alarms > 0 && (
          <Badge tone="warn">
            <Siren size={12} aria-hidden="true" /> {t('jobs.alarms', { n: job.alarms })}
          </Badge>
        )}
        {waits.length > 0 && (
          <span>
            {t('jobs.waitsFor')}{' '}
            {waits.map((one, index) => (
              <span key={one.id}>
                {index > 0 && ', '}
                <Link href={`/r/${slug}/jobs/${one.id}`} title={one.title}>
                  #{one.number}
                </Link>
              </span>
            ))}
          </span>
        )}
        {job.priority !== 0 && <span>{t('run.priority', { n: job.priority })}</span>}
        {job.clone_of && (
          <span>
            {t('jobs.cloneOf')} <Link href={`/r/${slug}/jobs/${job.clone_of.id}`}>#{job.clone_of.number}</Link>
          </span>
        )}
        {job.sweep && <Link href={`/r/${slug}/jobs?sweep=${job.sweep}`}>{t('jobs.sweep')}</Link>}
      </div>
    </>
  )
}

function RowMenu({ slug, job, move }: { slug: string; job: Job; move: (job: Job) => void }) {
  const [, navigate] = useLocation()
  const items: MenuItem[] = []
  if (isTraining(job)) {
    items.push({
      kind: 'action',
      label: t('jobs.clone'),
      icon: <Copy size={16} aria-hidden="true" />,
      run: () => navigate(`/r/${slug}/jobs/new?from=${job.id}`),
    })
  }
  if (job.status === 'queued') {
    items.push({
      kind: 'action',
      label: t('jobs.move'),
      icon: <ListOrdered size={16} aria-hidden="true" />,
      run: () => move(job),
    })
  }
  if (items.length === 0) return null
  return (
    <Menu
      label={t('jobs.menuOf', { number: job.number })}
      icon
      button={<MoreHorizontal size={18} aria-hidden="true" />}
      items={items}
    />
  )
}

type PriorityProps = { slug: string; job: Job; onClose: () => void }

export function PriorityDialog({ slug, job, onClose }: PriorityProps) {
  const [text, setText] = useState(String(job.priority))
  const value = numberOf(text)
  const write = useWrite(slug, () => changePriority(slug, job.id, value ?? 0), onClose)
  return (
    <FormDialog
      title={t('jobs.moveTitle', { number: job.number })}
      submit={t('action.save')}
      busy={write.isPending}
      error={write.error}
      failed={t('jobs.moveFailed')}
      onSubmit={() => value !== undefined && write.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <TextField
          label={t('newJob.priority')}
          help={t('newJob.priorityHelp')}
          error={errors.priority ?? (value === undefined ? t('fault.integer') : undefined)}
          inputMode="numeric"
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
      )}
    </FormDialog>
  )
}

/* ---- How many may run */

const share = (now: number, most: number | null): string => (most === null ? count(now) : t('quota.of', { now, most }))

function QuotaLine({ slug }: { slug: string }) {
  const { isOwner } = useMembership(slug)
  const [editing, setEditing] = useState(false)
  const quota = useQuery(quotaQuery(slug)).data
  if (!quota) return null
  const full = quota.running !== null && quota.running_now >= quota.running
  return (
    <div className={styles.quota}>
      <span>
        {t('quota.running')} <strong>{share(quota.running_now, quota.running)}</strong>
        {full && <Badge tone="warn">{t('quota.full')}</Badge>}
      </span>
      <span>
        {t('quota.waiting')} <strong>{share(quota.queued_now, quota.queued)}</strong>
      </span>
      <span className="muted">{quota.running === null && quota.queued === null ? t('quota.none') : t('quota.is')}</span>
      {isOwner && (
        <Button small look="quiet" onClick={() => setEditing(true)}>
          {t('quota.change')}
        </Button>
      )}
      {editing && <QuotaDialog slug={slug} quota={quota} onClose={() => setEditing(false)} />}
    </div>
  )
}

const limit = (text: string): number | null => (text.trim() === '' ? null : Number(text))

function QuotaDialog({ slug, quota, onClose }: { slug: string; quota: Quota; onClose: () => void }) {
  const [running, setRunning] = useState(quota.running === null ? '' : String(quota.running))
  const [queued, setQueued] = useState(quota.queued === null ? '' : String(quota.queued))
  const write = useWrite(slug, () => changeQuota(slug, { running: limit(running), queued: limit(queued) }), onClose)
  return (
    <FormDialog
      title={t('quota.title')}
      submit={t('action.save')}
      busy={write.isPending}
      error={write.error}
      failed={t('quota.failed')}
      onSubmit={() => write.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <TextField
            label={t('quota.most')}
            help={t('quota.mostHelp')}
            error={errors.running}
            inputMode="numeric"
            placeholder={t('quota.unlimited')}
            value={running}
            onChange={(event) => setRunning(event.target.value)}
          />
          <TextField
            label={t('quota.mostWaiting')}
            help={t('quota.mostWaitingHelp')}
            error={errors.queued}
            inputMode="numeric"
            placeholder={t('quota.unlimited')}
            value={queued}
            onChange={(event) => setQueued(event.target.value)}
          />
        </>
      )}
    </FormDialog>
  )
}
