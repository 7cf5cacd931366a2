/** The tabs of a run: curves, samples, config, log, history. */
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query'
import { Activity, Download, FileText, History, MessageSquareText } from 'lucide-react'
import { type ReactNode, useDeferredValue, useEffect, useRef, useState } from 'react'
import { csvPath, jobCurvesQuery, tensorBoardPath } from 'src/api/jobsApi'
import { jobLogQuery, jobSamplesQuery, methodsQuery, metricsQuery, modelsQuery } from 'src/api/queries'
import type { JobDetail, Mark, Method, Sample } from 'src/api/schema'
import { flatten, shown } from 'src/training/config'
import { roleTitle } from 'src/training/JobInputs'
import styles from 'src/training/Run.module.css'
import { type Chart, charts, thinned } from 'src/training/series'
import { alarmTitle } from 'src/ui/alarms'
import { LineChart } from 'src/ui/charts/LineChart'
import { Conversation } from 'src/ui/content/Conversation'
import { Markdown } from 'src/ui/content/Markdown'
import { bytes, count, duration, fixed, measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, CopyButton, Time } from 'src/ui/widgets/Bits'
import { DownloadLink } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Card, Facts, Stack } from 'src/ui/widgets/Page'
import { Empty, Loaded, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useSearchParams } from 'wouter'

type TabProps = { slug: string; job: JobDetail; active: boolean }

export function CurvesTab({ slug, job, active }: TabProps) {
  const client = useQueryClient()
  const feed = useQuery(jobCurvesQuery(client, slug, job.id, active))
  const metrics = useQuery(metricsQuery()).data ?? []
  const [weight, setWeight] = useState(0.6)
  const smoothing = useDeferredValue(weight)
  return (
    <Loaded query={feed} what={t('run.curvesFailed')} skeleton={<SkeletonBoxes boxes={6} height={250} />}>
      {({ curves, marks, stride }) =>
        curves.length === 0 ? (
          <Empty icon={Activity} title={active ? t('run.waiting') : t('run.noCurves')}>
            {active ? t('run.waitingText') : undefined}
          </Empty>
        ) : (
          <>
            <div className={styles.controls}>
              <Smoothing weight={weight} onChange={setWeight} />
              <span className="muted small tabular">
                {t('run.rows', { n: Math.max(...curves.map((curve) => curve.points)) })}
                {stride > 1 && ` · ${t('run.stride', { n: stride })}`}
              </span>
              <span className={styles.downloads}>
                <DownloadLink small look="quiet" href={csvPath(slug, job.id)}>
                  <Download size={14} aria-hidden="true" />
                  {t('run.csv')}
                </DownloadLink>
                <DownloadLink small look="quiet" href={tensorBoardPath(slug, job.id)}>
                  <Download size={14} aria-hidden="true" />
                  {t('run.tensorBoard')}
                </DownloadLink>
              </span>
            </div>
            <Marks marks={marks} />
            <Charts all={charts(thinned(curves), metrics)} smoothing={smoothing} syncKey={job.id} marks={marks} />
          </>
        )
      }
    </Loaded>
  )
}

export function Smoothing({ weight, onChange }: { weight: number; onChange: (weight: number) => void }) {
  return (
    <label className={styles.slider}>
      {t('run.smoothing')}
      <input
        type="range"
        min={0}
        max={0.98}
        step={0.02}
        value={weight}
        onChange={(event) => onChange(Number(event.target.value))}
      />
      {fixed(weight)}
    </label>
  )
}

const MARK_TONES = { resumed: 'plain', alarm: 'warn', diverged: 'error' } as const

function markText({ kind, name, text, attempt }: Mark): string {
  switch (kind) {
    case 'resumed':
      return t('mark.resumed', { attempt: attempt ?? 0 })
    case 'diverged':
      return t('mark.diverged', { text: text || name })
    case 'alarm':
      return t('mark.alarm', { title: alarmTitle(name) })
  }
}

/** What the lines across the charts mean. */
function Marks({ marks }: { marks: Mark[] }) {
  if (marks.length === 0) return null
  return (
    <ul className={styles.marks} aria-label={t('mark.list')}>
      {marks.map((mark) => (
        <li key={`${mark.kind}-${mark.step}-${mark.attempt}-${mark.name}`}>
          <Badge tone={MARK_TONES[mark.kind]}>{t('chart.step', { step: mark.step })}</Badge> {markText(mark)}
        </li>
      ))}
    </ul>
  )
}

type ChartsProps = { all: Chart[]; smoothing: number; syncKey: string; marks?: Mark[] }

export function Charts({ all, smoothing, syncKey, marks = [] }: ChartsProps) {
  const [open, setOpen] = useState(false)
  const lines = marks.map((mark) => ({ x: mark.step, tone: MARK_TONES[mark.kind] }))
  const grid = (shown: Chart[]) => (
    <div className={styles.grid}>
      {shown.map(({ title, curves, band, unit, help }) => (
        <section key={title} className={styles.chart} aria-label={title}>
          <LineChart
            title={title}
            curves={curves}
            band={band}
            unit={unit}
            help={help}
            smoothing={smoothing}
            syncKey={syncKey}
            marks={lines}
          />
        </section>
      ))}
    </div>
  )
  const secondary = all.filter((chart) => chart.secondary)
  return (
    <>
      {grid(all.filter((chart) => !chart.secondary))}
      {secondary.length > 0 && (
        <details className={styles.more} onToggle={(event) => setOpen(event.currentTarget.open)}>
          <summary>{t('run.moreCharts', { n: secondary.length })}</summary>
          {open && grid(secondary)}
        </details>
      )}
    </>
  )
}

const SAMPLES_SHOWN = 40

export function SamplesTab({ slug, job, active }: TabProps) {
  const client = useQueryClient()
  const feed = useQuery(jobSamplesQuery(client, slug, job.id, active))
  const [search, setSearch] = useSearchParams()
  return (
    <Loaded query={feed} what={t('run.samplesFailed')} skeleton={<SkeletonBoxes boxes={2} height={220} />}>
      {({ items }) => {
        const steps = [...new Set(items.map((sample) => sample.step))].sort((one, other) => other - one)
        if (steps.length === 0) {
          return (
            <Empty icon={MessageSquareText} title={active ? t('run.noSamplesYet') : t('run.noSamples')}>
              {active ? t('run.noSamplesText') : undefined}
            </Empty>
          )
        }
        const step = steps.find((value) => String(value) === search.get('step')) ?? steps[0]
        const start = steps[steps.length - 1] ?? 0
        const beside = search.get('beside') === 'start' && step !== start
        const shownSamples = items.filter((sample) => sample.step === step).slice(0, SAMPLES_SHOWN)
        const atStart = new Map(
          items.filter((sample) => sample.step === start).map((sample) => [sample.prompt_id, sample]),
        )
        return (
          <Stack>
            <div className={styles.steps}>
              <SelectField
                label={t('run.samplesAt')}
                value={String(step)}
                onChange={(event) =>
                  setSearch((params) => {
                    params.set('step', event.target.value)
                    return params
                  })
                }
                options={steps.map((value): [string, string] => [String(value), t('chart.step', { step: value })])}
              />
              {steps.length > 1 && (
                <label className={styles.slider}>
                  <input
                    type="checkbox"
                    style={{ width: 18 }}
                    checked={beside}
                    disabled={step === start}
                    onChange={(event) =>
                      setSearch((params) => {
                        if (event.target.checked) params.set('beside', 'start')
                        else params.delete('beside')
                        return params
                      })
                    }
                  />
                  {t('run.besideStart', { step: start })}
                </label>
              )}
            </div>
            <div className={styles.samples} data-beside={beside || undefined}>
              {shownSamples.map((sample) => (
                <OneSample
                  key={sample.seq}
                  sample={sample}
                  before={beside ? atStart.get(sample.prompt_id) : undefined}
                />
              ))}
            </div>
          </Stack>
        )
      }}
    </Loaded>
  )
}

/** A completion with its figures; with `before`, what the model wrote for the same prompt at the start stands beside. */
function OneSample({ sample, before }: { sample: Sample; before: Sample | undefined }) {
  return (
    <article className={styles.sample} aria-label={t('run.sample', { id: sample.prompt_id })}>
      <div className={styles.sampleHead}>
        <code>{sample.prompt_id.slice(0, 12)}</code>
        {!before && <SampleFigures sample={sample} />}
      </div>
      <Conversation turns={sample.prompt} prefix={`s${sample.seq}-p`} compact />
      {before ? (
        <div className={styles.beside}>
          {[before, sample].map((one) => (
            <section key={one.seq} aria-label={t('chart.step', { step: one.step })}>
              <div className={styles.sampleHead}>
                <strong>{t('chart.step', { step: one.step })}</strong>
                <SampleFigures sample={one} />
              </div>
              <div className={styles.completion}>
                <Markdown text={one.completion} prefix={`s${one.seq}-`} />
              </div>
            </section>
          ))}
        </div>
      ) : (
        <div className={styles.completion}>
          <Markdown text={sample.completion} prefix={`s${sample.seq}-`} />
        </div>
      )}
      {before && before.completion === sample.completion && <p className="muted small">{t('run.sameText')}</p>}
    </article>
  )
}

function SampleFigures({ sample }: { sample: Sample }) {
  return (
    <>
      {sample.score !== null && <span>{t('run.score', { value: measured(sample.score) })}</span>}
      {sample.kl !== null && <span>{t('run.kl', { value: measured(sample.kl) })}</span>}
      {sample.length !== null && <span>{t('run.tokens', { n: sample.length })}</span>}
      {sample.finish === 'length' && <Badge tone="warn">{t('comparisons.cut')}</Badge>}
    </>
  )
}

function defaultsOf(methods: Method[] | undefined, name: string): Map<string, unknown> {
  const method = methods?.find((entry) => entry.name === name)
  const fields = method ? [...method.fields_shown, ...method.fields_more] : []
  return new Map(fields.filter((field) => field.type !== 'section').map((field) => [field.path, field.default]))
}

type Named = { model?: string; job?: string }
const isNamed = (value: unknown): value is Named => typeof value === 'object' && value !== null

/** Further models of the job by role; one that was promised shows the job that makes it. */
function JobInputsCard({ slug, job }: { slug: string; job: JobDetail }) {
  const models = useInfiniteQuery(modelsQuery(slug)).data ?? []
  const roles = Object.entries(job.inputs).flatMap(([role, value]): [string, Named[]][] => {
    const refs = (Array.isArray(value) ? value : [value]).filter(isNamed)
    return refs.length > 0 ? [[role, refs]] : []
  })
  if (roles.length === 0) return null
  const nameOf = (id: string) => models.find((model) => model.id === id)?.name ?? id.slice(0, 8)
  return (
    <Card title={t('run.inputs')}>
      <Facts
        items={roles.map(([role, refs]): [string, ReactNode] => [
          roleTitle(role),
          refs.map(({ model, job: promotion }) => (
            <div key={model ?? promotion}>
              {model && <Link href={`/r/${slug}/policies/${model}`}>{nameOf(model)}</Link>}
              {promotion && <Link href={`/r/${slug}/jobs/${promotion}`}>{t('run.promised')}</Link>}
            </div>
          )),
        ])}
      />
    </Card>
  )
}

export function ConfigTab({ slug, job }: { slug: string; job: JobDetail }) {
  const defaults = defaultsOf(useQuery(methodsQuery(slug, job.model?.id ?? '')).data, job.method)
  const rows = flatten(job.config)
  return (
    <Stack>
      <JobInputsCard slug={slug} job={job} />
      <Card
        title={t('run.tab.config')}
        note={t('run.configNote')}
        actions={<CopyButton text={JSON.stringify(job.config, null, 2)} label={t('run.tab.config')} />}
      >
        <table className={styles.config}>
          <caption className="visually-hidden">{t('run.tab.config')}</caption>
          <tbody>
            {rows.map(([path, value]) => (
              <tr key={path}>
                <th scope="row">{path}</th>
                <td>
                  {shown(value) || '–'}{' '}
                  {defaults.has(path) && shown(defaults.get(path)) !== shown(value) && (
                    <span title={t('run.default', { value: shown(defaults.get(path)) || '–' })}>
                      <Badge tone="warn">{t('form.changed')}</Badge>
                    </span>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Card>
    </Stack>
  )
}

export function LogTab({ slug, job, active }: TabProps) {
  const log = useQuery(jobLogQuery(slug, job.id, active))
  const [follow, setFollow] = useState(true)
  const box = useRef<HTMLPreElement>(null)
  const length = log.data?.lines.length ?? 0
  // biome-ignore lint/correctness/useExhaustiveDependencies: scrolls when lines arrive.
  useEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight
  }, [follow, length])
  return (
    <Loaded query={log} what={t('run.logFailed')}>
      {({ lines }) =>
        lines.length === 0 ? (
          <Empty icon={FileText} title={t('run.noLog')} />
        ) : (
          <Stack>
            <label className={styles.slider}>
              <input
                type="checkbox"
                style={{ width: 18 }}
                checked={follow}
                onChange={(event) => setFollow(event.target.checked)}
              />
              {t('run.follow')}
            </label>
            <pre ref={box} className={styles.log} tabIndex={0} role="log" aria-label={t('run.tab.log')}>
              {lines.join('\n')}
            </pre>
          </Stack>
        )
      }
    </Loaded>
  )
}

type Attempt = JobDetail['runs'][number]
type Checkpoint = JobDetail['checkpoints'][number]

const attemptColumns = (): Column<Attempt>[] => [
  { name: 'attempt', header: t('history.attempt'), cell: (run) => run.attempt },
  { name: 'started', header: t('history.started'), cell: (run) => <Time at={run.started_at} /> },
  {
    name: 'took',
    header: t('job.spent'),
    align: 'end',
    cell: (run) =>
      run.ended_at ? duration((Date.parse(run.ended_at) - Date.parse(run.started_at)) / 1000) : t('history.live'),
  },
  {
    name: 'step',
    header: t('history.lastStep'),
    align: 'end',
    cell: (run) => (run.last_step === null ? '–' : count(run.last_step)),
  },
  { name: 'code', header: t('history.exitCode'), align: 'end', cell: (run) => run.exit_code ?? '–' },
  { name: 'reason', header: t('history.reason'), wrap: true, cell: (run) => run.reason || '–' },
]

const checkpointColumns = (): Column<Checkpoint>[] => [
  {
    name: 'step',
    header: t('chart.stepColumn'),
    cell: (checkpoint) => (
      <>
        {count(checkpoint.step)} {checkpoint.is_best && <Badge tone="ok">{t('promote.bestMark')}</Badge>}
      </>
    ),
  },
  { name: 'attempt', header: t('history.attempt'), cell: (checkpoint) => checkpoint.attempt },
  { name: 'size', header: t('history.size'), align: 'end', cell: (checkpoint) => bytes(checkpoint.size_bytes) },
  {
    name: 'kept',
    header: t('history.files'),
    cell: (checkpoint) =>
      checkpoint.kept ? <Badge tone="ok">{t('history.kept')}</Badge> : <Badge>{t('history.pruned')}</Badge>,
  },
]

export function HistoryTab({ job }: { job: JobDetail }) {
  return (
    <Stack>
      <Card title={t('history.runs')} note={t('history.runsNote')} flush>
        {job.runs.length === 0 ? (
          <Empty icon={History} title={t('history.noRuns')} />
        ) : (
          <DataTable
            caption={t('history.runs')}
            columns={attemptColumns()}
            rows={job.runs}
            rowKey={(run) => String(run.attempt)}
          />
        )}
      </Card>
      <Card title={t('history.checkpoints')} flush>
        {job.checkpoints.length === 0 ? (
          <Empty icon={History} title={t('history.noCheckpoints')} />
        ) : (
          <DataTable
            caption={t('history.checkpoints')}
            columns={checkpointColumns()}
            rows={job.checkpoints}
            rowKey={(entry) => entry.id}
          />
        )}
      </Card>
    </Stack>
  )
}
