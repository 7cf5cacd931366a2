/** Machines that run jobs: who lives, what each has left and what it runs; and how long the queues are. */
import { useQuery } from '@tanstack/react-query'
import { Server } from 'lucide-react'
import type { ReactNode } from 'react'
import { workersQuery } from 'src/api/jobsApi'
import type { Worker, WorkerDevice, WorkerQueue, WorkerRun } from 'src/api/schema'
import styles from 'src/training/Workers.module.css'
import { bytes, count, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { Badge, Progress, Time, type Tone } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Columns, Facts, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const TONES: Record<Worker['state'], Tone> = { alive: 'ok', lost: 'error', ended: 'plain' }

const queueColumns = (): Column<WorkerQueue>[] => [
  { name: 'queue', header: t('workers.queue'), cell: (row) => t(`workers.queue.${row.queue}`) },
  { name: 'running', header: t('status.running'), align: 'end', cell: (row) => count(row.running) },
  { name: 'ready', header: t('workers.ready'), align: 'end', cell: (row) => count(row.ready) },
  { name: 'waiting', header: t('workers.waiting'), align: 'end', cell: (row) => count(row.waiting) },
  { name: 'workers', header: t('workers.alive'), align: 'end', cell: (row) => count(row.workers) },
  { name: 'slots', header: t('workers.slots'), align: 'end', cell: (row) => count(row.slots) },
]

export default function Workers() {
  const list = useQuery(workersQuery())
  return (
    <Page title={t('nav.workers')} intro={t('workers.intro')}>
      <Loaded query={list} what={t('workers.failed')} skeleton={<SkeletonBoxes boxes={3} height={200} />}>
        {({ items, queues }) => (
          <>
            {queues
              .filter((row) => row.ready > 0 && row.slots === 0)
              .map((row) => (
                <Notice key={row.queue} tone="warn" role="status">
                  {t('workers.nobody', { n: row.ready, queue: t(`workers.queue.${row.queue}`) })}
                </Notice>
              ))}
            <Card flush title={t('workers.queues')}>
              <DataTable
                caption={t('workers.queues')}
                columns={queueColumns()}
                rows={queues}
                rowKey={(row) => row.queue}
              />
            </Card>
            {items.length === 0 ? (
              <Card>
                <Empty icon={Server} title={t('workers.none')}>
                  {t('workers.noneText')}
                </Empty>
              </Card>
            ) : (
              <Columns width={420}>
                {items.map((worker) => (
                  <OneWorker key={worker.id} worker={worker} />
                ))}
              </Columns>
            )}
          </>
        )}
      </Loaded>
    </Page>
  )
}

function OneWorker({ worker }: { worker: Worker }) {
  const { state, obstacle } = worker
  const facts: [string, ReactNode][] = [
    [t('workers.queue'), t('workers.takes', { n: worker.slots, queue: t(`workers.queue.${worker.queue}`) })],
    [
      t(state === 'ended' ? 'workers.ended' : 'workers.heard'),
      <Time key="heard" at={state === 'ended' ? worker.ended_at : worker.heartbeat_at} />,
    ],
    [t('workers.since'), <Time key="since" at={worker.started_at} />],
    ...(worker.memory_bytes === null
      ? []
      : [
          [
            t('workers.memory'),
            t('workers.free', { free: bytes(worker.free_memory_bytes), all: bytes(worker.memory_bytes) }),
          ] satisfies [string, ReactNode],
        ]),
    ...(worker.free_disk_bytes === null
      ? []
      : [
          [t('workers.disk'), t('workers.freeOnly', { free: bytes(worker.free_disk_bytes) })] satisfies [
            string,
            string,
          ],
        ]),
    ...(worker.version
      ? [[t('workers.version'), <code key="v">{worker.version}</code>] satisfies [string, ReactNode]]
      : []),
  ]
  return (
    <Card
      title={
        <span className={styles.name}>
          {worker.host} <Badge tone={TONES[state]}>{t(`workers.state.${state}`)}</Badge>
        </span>
      }
      note={t('workers.process', { pid: String(worker.pid) })}
    >
      {state === 'alive' && obstacle && <Notice tone="warn">{t('workers.obstacle', { obstacle })}</Notice>}
      {state === 'lost' && <Notice tone="error">{t('workers.lostText')}</Notice>}
      <Facts items={facts} />
      {worker.devices.map((device) => (
        <Device key={device.id} device={device} />
      ))}
      {state !== 'ended' && (
        <section aria-label={t('workers.runs')}>
          <h3 className={styles.runs}>{t('workers.runs')}</h3>
          {worker.runs.length === 0 ? (
            <p className="muted">{t('workers.idle')}</p>
          ) : (
            <ul className={styles.list}>
              {worker.runs.map((run) => (
                <li key={`${run.job?.id ?? run.started_at}-${run.attempt}`}>
                  <RunLine run={run} />
                </li>
              ))}
            </ul>
          )}
        </section>
      )}
    </Card>
  )
}

function Device({ device }: { device: WorkerDevice }) {
  const { name, memory_bytes, used_bytes, load } = device
  return (
    <div className={styles.device}>
      <div className={styles.deviceHead}>
        <strong>{name}</strong>
        {load !== null && <span className="muted tabular">{t('workers.load', { share: percent(load) })}</span>}
      </div>
      {memory_bytes !== null && used_bytes !== null && (
        <>
          <Progress label={t('workers.deviceMemory', { name })} value={used_bytes} max={memory_bytes} />
          <span className="muted small tabular">
            {t('workers.used', { used: bytes(used_bytes), all: bytes(memory_bytes) })}
          </span>
        </>
      )}
    </div>
  )
}

function RunLine({ run }: { run: WorkerRun }) {
  const { job, step, steps } = run
  return (
    <>
      <div className={styles.name}>
        {job ? (
          <Link href={`/r/${job.project}/jobs/${job.id}`}>
            #{job.number} {job.title || methodName(job.method)}
          </Link>
        ) : (
          <span className="muted">{t('workers.elsewhere')}</span>
        )}
        <JobStatus status="running" phase={run.phase} />
      </div>
      <span className="muted small">
        {job && `${job.project_name} · ${methodName(job.method)} · `}
        {run.attempt > 1 && `${t('run.attempt', { attempt: run.attempt })} · `}
        {t('workers.startedAt')} <Time at={run.started_at} />
      </span>
      {steps !== null && steps > 0 && (
        <>
          <Progress label={t('job.progress')} value={step ?? 0} max={steps} />
          <span className="muted small tabular">{t('job.stepOf', { step: step ?? 0, steps })}</span>
        </>
      )}
    </>
  )
}
