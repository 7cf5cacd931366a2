/** Several jobs beside each other: curves over each other, what differs in their settings, figures, and what each wrote. */
import { useQuery } from '@tanstack/react-query'
import { Download, GitCompareArrows } from 'lucide-react'
import { useDeferredValue, useState } from 'react'
import { compareQuery, MOST_COMPARED, tensorBoardArchive } from 'src/api/jobsApi'
import { metricsQuery } from 'src/api/queries'
import type { ComparedJob, Difference, JobsCompared, MetricInfo } from 'src/api/schema'
import styles from 'src/training/CompareJobs.module.css'
import { asValue } from 'src/training/config'
import { Charts, Smoothing } from 'src/training/RunTabs'
import { overlay } from 'src/training/series'
import { Conversation } from 'src/ui/content/Conversation'
import { Markdown } from 'src/ui/content/Markdown'
import { duration, interval, measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { DownloadLink, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useParams, useSearchParams } from 'wouter'

const parts = (text: string | null): string[] => (text ?? '').split(',').filter((part) => part !== '')

export default function CompareJobs() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search] = useSearchParams()
  const ids = parts(search.get('ids')).slice(0, MOST_COMPARED)
  const names = parts(search.get('names'))
  const compared = useQuery(compareQuery(slug, ids, names))
  return (
    <Page
      title={t('compare.title')}
      above={<Link href={`/r/${slug}/jobs`}>{t('nav.jobs')}</Link>}
      intro={t('compare.intro')}
      actions={
        ids.length > 0 && (
          <DownloadLink href={tensorBoardArchive(slug, ids)}>
            <Download size={16} aria-hidden="true" />
            {t('compare.tensorBoard')}
          </DownloadLink>
        )
      }
    >
      {ids.length === 0 ? (
        <Card>
          <Empty
            icon={GitCompareArrows}
            title={t('compare.none')}
            action={<LinkButton href={`/r/${slug}/jobs`}>{t('compare.choose')}</LinkButton>}
          >
            {t('compare.noneText')}
          </Empty>
        </Card>
      ) : (
        <Loaded query={compared} what={t('compare.failed')} skeleton={<SkeletonBoxes boxes={4} height={240} />}>
          {(data) => <Body slug={slug} data={data} names={names} />}
        </Loaded>
      )}
    </Page>
  )
}

const jobLabel = (job: ComparedJob): string => `#${job.number}`

function Body({ slug, data, names }: { slug: string; data: JobsCompared; names: string[] }) {
  const metrics = useQuery(metricsQuery()).data ?? []
  return (
    <>
      <Card flush title={t('compare.jobs')}>
        <DataTable caption={t('compare.jobs')} columns={jobColumns(slug)} rows={data.jobs} rowKey={(job) => job.id} />
      </Card>
      <Curves data={data} metrics={metrics} names={names} />
      <Card flush title={t('compare.differences')} note={t('compare.alike', { n: data.alike })}>
        {data.differences.length === 0 ? (
          <p className={styles.nothing}>{t('compare.noDifferences')}</p>
        ) : (
          <DataTable
            caption={t('compare.differences')}
            columns={differenceColumns(data.jobs)}
            rows={data.differences}
            rowKey={(row) => row.key}
          />
        )}
      </Card>
      <Finals jobs={data.jobs} />
      <Samples data={data} />
    </>
  )
}

function jobColumns(slug: string): Column<ComparedJob>[] {
  return [
    { name: 'number', header: '#', align: 'end', cell: (job) => job.number },
    {
      name: 'title',
      header: t('job.title'),
      wrap: true,
      cell: (job) => <Link href={`/r/${slug}/jobs/${job.id}`}>{job.title || methodName(job.method)}</Link>,
    },
    { name: 'method', header: t('job.method'), cell: (job) => methodName(job.method) },
    { name: 'status', header: t('job.status'), cell: (job) => <JobStatus status={job.status} /> },
    {
      name: 'step',
      header: t('job.progress'),
      cell: (job) => (job.steps ? t('job.stepOf', { step: job.step ?? 0, steps: job.steps }) : '–'),
    },
    {
      name: 'spent',
      header: t('job.spent'),
      align: 'end',
      cell: (job) =>
        job.started_at && job.ended_at ? duration((Date.parse(job.ended_at) - Date.parse(job.started_at)) / 1000) : '–',
    },
    { name: 'by', header: t('job.by'), cell: (job) => <span className="muted">{job.created_by}</span> },
  ]
}

function Curves({ data, metrics, names }: { data: JobsCompared; metrics: MetricInfo[]; names: string[] }) {
  const [, setSearch] = useSearchParams()
  const [weight, setWeight] = useState(0.6)
  const smoothing = useDeferredValue(weight)
  const all = overlay(
    data.jobs.map((job) => ({ label: jobLabel(job), curves: job.curves.curves })),
    metrics,
  )
  const here = [...new Set(data.jobs.flatMap((job) => job.curves.curves.map((curve) => curve.name)))]
  const more = [...new Set(data.jobs.flatMap((job) => Object.keys(job.finals)))]
    .filter((name) => !here.includes(name) && !name.startsWith('test/'))
    .sort()
  const add = (name: string) =>
    setSearch((params) => {
      params.set('names', [...new Set([...(names.length > 0 ? names : here), name])].join(','))
      return params
    })
  return (
    <Card title={t('run.tab.curves')} note={t('compare.curvesNote')}>
      <div className={styles.controls}>
        <Smoothing weight={weight} onChange={setWeight} />
        {more.length > 0 && (
          <SelectField
            label={t('compare.add')}
            value=""
            onChange={(event) => event.target.value && add(event.target.value)}
            options={[['', t('compare.addChoose')], ...more.map((name): [string, string] => [name, name])]}
          />
        )}
      </div>
      {all.length === 0 ? (
        <p className="muted">{t('compare.noCurves')}</p>
      ) : (
        <Charts all={all} smoothing={smoothing} syncKey="compare" />
      )}
    </Card>
  )
}

const differenceColumns = (jobs: ComparedJob[]): Column<Difference>[] => [
  { name: 'key', header: t('compare.setting'), cell: (row) => <code>{row.key}</code> },
  ...jobs.map(
    (job, index): Column<Difference> => ({
      name: job.id,
      header: jobLabel(job),
      align: 'end',
      cell: (row) => <span className="tabular">{asValue(row.values[index])}</span>,
    }),
  ),
]

/** Test figures first: they are what a choice should rest on. */
const order = (name: string): string => `${name.startsWith('test/') ? 0 : name.startsWith('eval/') ? 1 : 2}${name}`

function Finals({ jobs }: { jobs: ComparedJob[] }) {
  const names = [...new Set(jobs.flatMap((job) => Object.keys(job.finals)))]
    .filter((name) => !/_(low|high)$/.test(name))
    .sort((one, other) => order(one).localeCompare(order(other)))
  if (names.length === 0) return null
  const columns: Column<string>[] = [
    { name: 'name', header: t('compare.metric'), cell: (name) => <code>{name}</code> },
    ...jobs.map(
      (job): Column<string> => ({
        name: job.id,
        header: jobLabel(job),
        align: 'end',
        cell: (name) => {
          const low = job.finals[`${name}_low`]
          const high = job.finals[`${name}_high`]
          return (
            <span className="tabular">
              {measured(job.finals[name])}
              {low !== undefined && high !== undefined && (
                <span className="muted"> {interval(measured(low), measured(high))}</span>
              )}
            </span>
          )
        },
      }),
    ),
  ]
  const tested = names.filter((name) => name.startsWith('test/'))
  const first = tested.length > 0 ? tested : names
  const rest = names.filter((name) => !first.includes(name))
  const table = (rows: string[], caption: string) => (
    <DataTable caption={caption} columns={columns} rows={rows} rowKey={(name) => name} />
  )
  return (
    <Card flush title={t('compare.finals')} note={t('compare.finalsNote')}>
      {table(first, t('compare.finals'))}
      {rest.length > 0 && (
        <details className={styles.more}>
          <summary>{t('model.moreFigures', { n: rest.length })}</summary>
          {table(rest, t('model.moreFigures', { n: rest.length }))}
        </details>
      )}
    </Card>
  )
}

function Samples({ data }: { data: JobsCompared }) {
  if (data.samples.length === 0) return null
  return (
    <Card title={t('compare.samples')} note={t('compare.samplesNote')}>
      {data.samples.map((row, place) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: prompts have no id here, and the list is read only.
        <article key={place} className={styles.prompt}>
          <Conversation turns={row.prompt} prefix={`c${place}`} compact />
          <div className={styles.written}>
            {data.jobs.map((job, index) => {
              const written: (typeof row.samples)[number] | null = row.samples[index] ?? null
              return (
                <section key={job.id} aria-label={jobLabel(job)} className={styles.one}>
                  <div className={styles.head}>
                    <strong>{jobLabel(job)}</strong>
                    {written && <span>{t('chart.step', { step: written.step })}</span>}
                    {written?.score != null && <span>{t('run.score', { value: measured(written.score) })}</span>}
                  </div>
                  {written ? (
                    <Markdown text={written.completion ?? ''} prefix={`c${place}-${index}-`} />
                  ) : (
                    <p className="muted">{t('compare.wroteNothing')}</p>
                  )}
                </section>
              )
            })}
          </div>
        </article>
      ))}
    </Card>
  )
}
