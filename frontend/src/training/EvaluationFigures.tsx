/** What the judges of an evaluation say, side by side: shares with intervals, agreement, and the judges themselves. */
import type { EstimateFigure, EvaluationDetail, KindsAgree, VerdictDetail, VerdictFigures } from 'src/api/schema'
import styles from 'src/training/Evaluations.module.css'
import { judgeName } from 'src/training/judges'
import { Whiskers } from 'src/ui/charts/Whiskers'
import { count, DASH, fixed, interval, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Progress } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Link } from 'wouter'

type Unit = 'percent' | 'coefficient'
const NOTHING = { value: null, low: null, high: null }

/** A figure with its interval below it, or a dash. */
export function Interval({ of, unit = 'percent' }: { of: EstimateFigure | null | undefined; unit?: Unit }) {
  if (!of) return <>{DASH}</>
  const write = (x: number) => (unit === 'percent' ? fixed(x * 100, 1) : fixed(x, 2))
  return (
    <span className={styles.figure}>
      {write(of.value)}
      {unit === 'percent' && ' %'}
      <span className={styles.range}>
        {of.low === null || of.high === null ? t('verdict.noInterval') : interval(write(of.low), write(of.high))}
      </span>
    </span>
  )
}

/** Which judge, of what kind, and how far its work is. */
export function JudgeCell({ slug, verdict }: { slug: string; verdict: VerdictDetail }) {
  const { kind, reward_model, judge, job } = verdict
  const name = judgeName(verdict)
  return (
    <span className={styles.name}>
      <strong>{reward_model ? <Link href={`/r/${slug}/policies/${reward_model.id}`}>{name}</Link> : name}</strong>
      {kind !== 'people' && <span className="muted small">{t(`judge.${kind}`)}</span>}
      {judge && (
        <span className="muted small">
          {judge.url}
          {judge.prompt !== null && ` · ${t('judge.itsPrompt')}`}
        </span>
      )}
      {job && job.status !== 'succeeded' && (
        <span>
          <JobStatus status={job.status} />{' '}
          <Link href={`/r/${slug}/jobs/${job.id}`}>{t('verdict.job', { number: job.number })}</Link>
          {job.status === 'running' && job.steps !== null && (
            <Progress label={name} value={job.step ?? 0} max={job.steps} />
          )}
          {job.reason && <span className="small"> {job.reason}</span>}
        </span>
      )}
    </span>
  )
}

/** Wins, ties and losses of the first policy as parts of a bar; the columns beside it say the same in numbers. */
export function Split({ win, tie, loss }: Pick<VerdictFigures, 'win' | 'tie' | 'loss'>) {
  if (!win || !tie || !loss) return <>{DASH}</>
  const parts = [
    ['win', win.value],
    ['tie', tie.value],
    ['loss', loss.value],
  ] as const
  return (
    <div className={styles.split} aria-hidden="true">
      {parts.map(
        ([name, share]) =>
          share > 0 && (
            <span key={name} className={styles[name]} style={{ flex: `${share} 0 0` }}>
              {share >= 0.14 && percent(share)}
            </span>
          ),
      )}
    </div>
  )
}

type SidesProps = { slug: string; evaluation: EvaluationDetail }

/** Win rates of the first policy over one axis, plain and between completions of one length. */
export function WinRates({ slug, evaluation }: SidesProps) {
  const { verdicts, first, second } = evaluation
  const controlled = verdicts.some(({ figures }) => figures?.win_rate_length_controlled)
  return (
    <Whiskers<VerdictDetail>
      caption={t('verdict.title')}
      rows={verdicts}
      rowKey={({ id }) => id}
      columns={{
        before: [{ name: 'judge', header: t('verdict.judge'), cell: (row) => <JudgeCell slug={slug} verdict={row} /> }],
        after: [
          { name: 'rate', header: t('verdict.winRate'), cell: ({ figures }) => <Interval of={figures?.win_rate} /> },
          {
            name: 'controlled',
            header: t('verdict.controlled'),
            cell: ({ figures }) => <Interval of={figures?.win_rate_length_controlled} />,
          },
          {
            name: 'n',
            header: t('verdict.pairs'),
            cell: ({ figures }) =>
              figures ? (
                <span className={styles.figure}>
                  {count(figures.pairs)}
                  <span className={styles.range}>{t('round.prompts', { n: figures.prompts })}</span>
                </span>
              ) : (
                DASH
              ),
          },
        ],
      }}
      marks={({ figures }) => [
        figures?.win_rate ?? NOTHING,
        ...(controlled ? [figures?.win_rate_length_controlled ?? NOTHING] : []),
      ]}
      series={controlled ? [t('verdict.plain'), t('verdict.controlled')] : [t('verdict.plain')]}
      axis={{
        from: 0,
        to: 1,
        label: t('verdict.axis', { first: first.name, second: second.name }),
        format: percent,
        reference: 0.5,
      }}
    />
  )
}

export function Shares({ slug, evaluation }: SidesProps) {
  const columns: Column<VerdictDetail>[] = [
    { name: 'judge', header: t('verdict.judge'), cell: (row) => <JudgeCell slug={slug} verdict={row} /> },
    {
      name: 'split',
      header: t('verdict.split'),
      cell: (verdict) => (verdict.figures ? <Split {...verdict.figures} /> : <NoWord slug={slug} verdict={verdict} />),
    },
    { name: 'win', header: t('verdict.win'), cell: ({ figures }) => <Interval of={figures?.win} /> },
    { name: 'tie', header: t('verdict.tie'), cell: ({ figures }) => <Interval of={figures?.tie} /> },
    { name: 'loss', header: t('verdict.loss'), cell: ({ figures }) => <Interval of={figures?.loss} /> },
    {
      name: 'tokens',
      header: t('verdict.tokens'),
      align: 'end',
      cell: ({ figures }) => figures?.mean_tokens?.map((mean) => fixed(mean, 0)).join(' / ') ?? DASH,
    },
  ]
  return (
    <DataTable caption={t('verdict.shares')} columns={columns} rows={evaluation.verdicts} rowKey={({ id }) => id} />
  )
}

/** Why a judge has said nothing: its job failed or was stopped, or it is at work, or nobody has voted. */
export function NoWord({ slug, verdict: { job } }: { slug: string; verdict: VerdictDetail }) {
  if (job?.status !== 'failed' && job?.status !== 'cancelled') {
    return <span className="muted">{t(job?.status === 'queued' ? 'verdict.waits' : 'verdict.nothingYet')}</span>
  }
  return (
    <span className={job.status === 'failed' ? styles.error : undefined}>
      {t(job.status === 'failed' ? 'verdict.failed' : 'verdict.stopped')}{' '}
      <Link href={`/r/${slug}/jobs/${job.id}`}>{t('verdict.job', { number: job.number })}</Link>
      {job.reason && <span className="small"> {job.reason}</span>}
    </span>
  )
}

/** How each judge judges, whatever it says of the policies: position bias, consistency, what it left out. */
export function Judges({ slug, evaluation }: SidesProps) {
  const columns: Column<VerdictDetail>[] = [
    { name: 'judge', header: t('verdict.judge'), cell: (row) => <JudgeCell slug={slug} verdict={row} /> },
    {
      name: 'answers',
      header: t('verdict.answers'),
      align: 'end',
      cell: ({ figures }) => (figures ? count(figures.answers) : DASH),
    },
    { name: 'first', header: t('verdict.firstPlace'), cell: ({ figures }) => <FirstPlace of={figures?.first_place} /> },
    { name: 'orders', header: t('verdict.orders'), cell: ({ figures }) => <Interval of={figures?.orders_agree} /> },
    {
      name: 'people',
      header: t('verdict.people'),
      align: 'end',
      cell: ({ figures }) => (figures && figures.people !== null ? count(figures.people) : DASH),
    },
    {
      name: 'same',
      header: t('verdict.peopleAgree'),
      cell: ({ figures }) => <Interval of={figures?.people_agree_decided} />,
    },
    {
      name: 'unjudged',
      header: t('verdict.unjudged'),
      align: 'end',
      cell: ({ figures }) => (figures ? count(figures.unjudged) : DASH),
    },
    {
      name: 'unreadable',
      header: t('verdict.unreadable'),
      align: 'end',
      cell: ({ figures }) => (figures ? count(figures.unreadable) : DASH),
    },
  ]
  return (
    <DataTable caption={t('verdict.judges')} columns={columns} rows={evaluation.verdicts} rowKey={({ id }) => id} />
  )
}

/** A half is no bias: an interval that leaves it out is said in words. */
function FirstPlace({ of }: { of: EstimateFigure | null | undefined }) {
  const isBiased = of && of.low !== null && of.high !== null && (of.low > 0.5 || of.high < 0.5)
  return (
    <>
      <Interval of={of} />
      {isBiased && (
        <div>
          <Badge tone="warn">{t(of.value > 0.5 ? 'verdict.favoursFirst' : 'verdict.favoursSecond')}</Badge>
        </div>
      )}
    </>
  )
}

/* ---- Agreement */

type Agreed = Omit<KindsAgree, 'first' | 'second'> & { first: string; second: string }

/** Two judges a row; `nameOf` a verdict or a kind. */
export function AgreementTable({ rows, nameOf }: { rows: Agreed[]; nameOf: (id: string) => string }) {
  const columns: Column<Agreed>[] = [
    {
      name: 'judges',
      header: t('agreed.judges'),
      wrap: true,
      cell: ({ first, second }) => t('agreed.with', { first: nameOf(first), second: nameOf(second) }),
    },
    { name: 'agree', header: t('agreed.agree'), cell: ({ agree }) => <Interval of={agree} /> },
    { name: 'kappa', header: t('agreed.kappa'), cell: ({ kappa }) => <Interval of={kappa} unit="coefficient" /> },
    { name: 'votes', header: t('agreed.votes'), cell: ({ votes }) => <Interval of={votes} /> },
    { name: 'decided', header: t('agreed.decided'), align: 'end', cell: ({ decided }) => count(decided) },
    { name: 'pairs', header: t('agreed.pairs'), align: 'end', cell: ({ pairs }) => count(pairs) },
  ]
  return (
    <DataTable
      caption={t('agreed.title')}
      columns={columns}
      rows={rows}
      rowKey={({ first, second }) => `${first} ${second}`}
    />
  )
}
