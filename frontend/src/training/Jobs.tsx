import { useInfiniteQuery } from '@tanstack/react-query'
import { Cpu, Plus } from 'lucide-react'
import { useMembership } from 'src/api/membership'
import { isOver, jobsQuery } from 'src/api/queries'
import type { Job } from 'src/api/schema'
import { duration } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Progress, Time, useNow } from 'src/ui/widgets/Bits'
import { LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

function Spent({ job }: { job: Job }) {
  const now = useNow()
  if (!job.started_at) return <>–</>
  const end = job.ended_at ? new Date(job.ended_at).getTime() : now
  return <>{duration((end - new Date(job.started_at).getTime()) / 1000)}</>
}

export default function Jobs() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const list = useInfiniteQuery(jobsQuery(slug))
  const columns: Column<Job>[] = [
    { name: 'number', header: '#', align: 'end', cell: (job) => job.number },
    {
      name: 'title',
      header: t('job.title'),
      wrap: true,
      cell: (job) => <Link href={`/r/${slug}/jobs/${job.id}`}>{job.title}</Link>,
    },
    { name: 'method', header: t('job.method'), cell: (job) => job.method },
    { name: 'status', header: t('job.status'), cell: (job) => <JobStatus status={job.status} phase={job.phase} /> },
    {
      name: 'progress',
      header: t('job.progress'),
      cell: (job) =>
        job.steps ? (
          <div style={{ minWidth: 110 }}>
            <span className="small tabular">{t('job.stepOf', { step: job.step ?? 0, steps: job.steps })}</span>
            {!isOver(job) && <Progress label={t('job.progress')} value={job.step ?? 0} max={job.steps} />}
          </div>
        ) : (
          '–'
        ),
    },
    {
      name: 'snapshot',
      header: t('job.data'),
      cell: (job) =>
        job.snapshot ? (
          <Link href={`/r/${slug}/snapshots/${job.snapshot.id}`}>
            {t('snapshot.title', { number: job.snapshot.number })}
          </Link>
        ) : (
          '–'
        ),
    },
    { name: 'model', header: t('job.base'), cell: (job) => job.model?.name ?? '–' },
    { name: 'spent', header: t('job.spent'), align: 'end', cell: (job) => <Spent job={job} /> },
    { name: 'created', header: t('job.created'), cell: (job) => <Time at={job.created_at} /> },
    { name: 'by', header: t('job.by'), cell: (job) => <span className="muted">{job.created_by}</span> },
  ]
  const button = canManage && (
    <LinkButton href={`/r/${slug}/jobs/new`} look="primary">
      <Plus size={16} aria-hidden="true" />
      {t('job.new')}
    </LinkButton>
  )
  return (
    <Page title={t('nav.jobs')} intro={t('job.intro')} actions={button}>
      <Card flush>
        <Loaded
          query={list}
          what={t('job.listFailed')}
          skeleton={
            <div style={{ padding: '0 24px' }}>
              <Skeleton rows={6} />
            </div>
          }
        >
          {(rows) =>
            rows.length === 0 ? (
              <Empty icon={Cpu} title={t('job.none')} action={button}>
                {t('job.noneText')}
              </Empty>
            ) : (
              <DataTable caption={t('nav.jobs')} columns={columns} rows={rows} rowKey={(job) => job.id} more={list} />
            )
          }
        </Loaded>
      </Card>
    </Page>
  )
}
