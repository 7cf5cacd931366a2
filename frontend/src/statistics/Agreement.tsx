/** How far people agree: in all, by part, over time, pair by pair, and with the researchers. */
import { useQuery } from '@tanstack/react-query'
import { Users } from 'lucide-react'
import type { AgreementFigures, AgreementReport, AgreementRow, PersonSummary } from 'src/api/schema'
import {
  agreementQuery,
  agreementSource,
  matrixQuery,
  matrixSource,
  peopleQuery,
  peopleSource,
  type Split,
  type Weights,
  type Window,
} from 'src/api/statistics'
import { CeilingFigures } from 'src/statistics/Ceiling'
import { Doubts } from 'src/statistics/Doubts'
import { KappaMatrix } from 'src/statistics/KappaMatrix'
import { ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { useChoice } from 'src/statistics/useChoice'
import { usePart } from 'src/statistics/usePart'
import { BandChart, type BandPoint } from 'src/ui/charts/BandChart'
import { EstimateFigure, Estimates, Figure } from 'src/ui/charts/Estimate'
import { count, fixed, reasonText } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Badge } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Columns, Facts, Page } from 'src/ui/widgets/Page'
import { Empty, Notice } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

const SPLITS = ['criterion', 'batch', 'guideline'] as const satisfies Split[]
const WINDOWS = ['week', 'day', 'month', 'votes'] as const satisfies Window[]
const WEIGHTS = ['identity', 'ordinal', 'linear', 'quadratic'] as const satisfies Weights[]

export default function Agreement() {
  const { slug = '' } = useParams<{ slug: string }>()
  return (
    <Page title={t('nav.agreement')} intro={t('agreementPage.intro')}>
      <Overall slug={slug} />
      <OverTime slug={slug} />
      <ByPart slug={slug} />
      <Matrix slug={slug} />
      <WithResearchers slug={slug} />
    </Page>
  )
}

/** A coefficient's bar starts at chance, unless people agree less than that. */
const barFrom = (low: number | null): number => (low !== null && low < 0 ? -1 : 0)

function Overall({ slug }: { slug: string }) {
  const source = agreementSource(slug)
  const report = useQuery(agreementQuery(source))
  return (
    <>
      <ReportCard title={t('agreement.title')} note={t('agreement.note')} source={source} query={report}>
        {({ overall, skipped, cannot_judge, full_overlap_only }) => (
          <>
            {full_overlap_only && <Notice>{t('agreementPage.fullOverlap')}</Notice>}
            <Doubts of={[overall.percent, overall.alpha, overall.ac1].map(({ warnings }) => ({ warnings }))} />
            <Coefficients of={overall} />
            <div className={styles.sub}>
              <h3>{t('agreementPage.classes')}</h3>
              <Estimates>
                {overall.classes.map(({ name, share }) => (
                  <EstimateFigure key={name} label={className(name)} estimate={share} unit="percent" bar />
                ))}
                <EstimateFigure label={t('agreementPage.bothBad')} estimate={overall.both_bad} unit="percent" bar />
              </Estimates>
            </div>
            <Facts
              items={[
                [t('agreementPage.restsOn'), restsOn(overall)],
                [
                  t('agreementPage.skipped'),
                  skipped === 0 ? t('form.none') : t('agreementPage.skippedCounts', { skipped, unsure: cannot_judge }),
                ],
              ]}
            />
          </>
        )}
      </ReportCard>
      <Columns width={420}>
        <ReportCard table="ceiling" title={t('ceiling.title')} note={t('ceiling.note')} source={source} query={report}>
          {({ ceiling }) => <CeilingFigures ceiling={ceiling} />}
        </ReportCard>
        <ReportCard
          table="held_out"
          title={t('heldOut.title')}
          note={t('heldOut.note')}
          source={source}
          query={report}
          flush
        >
          {(found) => <HeldOut report={found} />}
        </ReportCard>
      </Columns>
    </>
  )
}

function restsOn({ votes, people, comparisons, prompts }: AgreementFigures): string {
  return t('agreementPage.restsOnCounts', { votes, people, comparisons, prompts })
}

const CLASSES: Record<string, Key> = { a: 'class.a', tie: 'class.tie', b: 'class.b' }

function className(name: string): string {
  const key = CLASSES[name]
  return key ? t(key) : name
}

function Coefficients({ of }: { of: AgreementFigures }) {
  const coefficients: [Key, AgreementFigures['alpha'] | null][] = [
    ['agreement.alpha', of.alpha],
    ['agreementPage.alphaOrdinal', of.alpha_ordinal],
    ['agreementPage.alphaInterval', of.alpha_interval],
    ['agreementPage.ac1', of.ac1],
    ['agreementPage.ac2', of.ac2],
    ['agreementPage.fleiss', of.fleiss],
  ]
  return (
    <Estimates>
      <EstimateFigure label={t('agreement.percent')} estimate={of.percent} unit="percent" bar />
      <EstimateFigure label={t('agreement.unanimous')} estimate={of.unanimous} unit="percent" bar />
      {coefficients.map(
        ([label, estimate]) =>
          estimate && (
            <EstimateFigure
              key={label}
              label={t(label)}
              estimate={estimate}
              unit="coefficient"
              bar
              from={barFrom(estimate.low)}
            />
          ),
      )}
    </Estimates>
  )
}

type HeldOutRow = AgreementReport['held_out'][number]
const METHODS: Record<string, Key> = {
  class_shares: 'method.class_shares',
  vote_share: 'method.vote_share',
  one_coin: 'method.one_coin',
  dawid_skene: 'method.dawid_skene',
  glad: 'method.glad',
}
/** What predicts under each way in which votes become labels. */
const PREDICTS: Record<AgreementReport['aggregator'], string> = { majority: 'vote_share', dawid_skene: 'dawid_skene' }

function methodName(name: string): string {
  const key = METHODS[name]
  return key ? t(key) : name.replaceAll('_', ' ')
}

function HeldOut({ report: { held_out, aggregator } }: { report: AgreementReport }) {
  const columns: Column<HeldOutRow>[] = [
    {
      name: 'method',
      header: t('heldOut.method'),
      cell: ({ method }) => (
        <>
          {methodName(method)} {method === PREDICTS[aggregator] && <Badge tone="ok">{t('heldOut.used')}</Badge>}
        </>
      ),
    },
    { name: 'loss', header: t('heldOut.logLoss'), align: 'end', cell: ({ log_loss }) => fixed(log_loss, 4) },
  ]
  if (held_out.length === 0) return <p className={styles.inset}>{t('heldOut.none')}</p>
  return <DataTable caption={t('heldOut.title')} columns={columns} rows={held_out} rowKey={({ method }) => method} />
}

const partColumns = (): Column<AgreementRow>[] => [
  { name: 'title', header: t('split.part'), cell: ({ title, key }) => title || key },
  { name: 'items', header: t('split.comparisons'), align: 'end', cell: ({ comparisons }) => count(comparisons) },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'percent', header: t('agreement.percent'), cell: ({ percent }) => <Figure of={percent} /> },
  { name: 'alpha', header: t('agreement.alpha'), cell: ({ alpha }) => <Figure of={alpha} unit="coefficient" /> },
  {
    name: 'ordinal',
    header: t('agreementPage.alphaOrdinal'),
    cell: ({ alpha_ordinal }) => <Figure of={alpha_ordinal} unit="coefficient" />,
  },
  { name: 'ac1', header: t('agreementPage.ac1'), cell: ({ ac1 }) => <Figure of={ac1} unit="coefficient" /> },
  { name: 'unanimous', header: t('agreement.unanimous'), cell: ({ unanimous }) => <Figure of={unanimous} /> },
]

function ByPart({ slug }: { slug: string }) {
  const [split, setSplit] = useChoice('split', SPLITS)
  const source = agreementSource(slug, { split })
  const report = useQuery(agreementQuery(source))
  return (
    <ReportCard
      title={t('split.title')}
      source={source}
      query={report}
      flush
      filters={
        <SelectField
          label={t('split.by')}
          value={split}
          onChange={(event) => setSplit(event.target.value)}
          options={SPLITS.map((name) => [name, t(`split.${name}`)])}
        />
      }
    >
      {({ rows }) =>
        rows.length === 0 ? (
          <p className={styles.inset}>{t('split.none')}</p>
        ) : (
          <DataTable caption={t('split.title')} columns={partColumns()} rows={rows} rowKey={({ key }) => key} />
        )
      }
    </ReportCard>
  )
}

const startOf = ({ started_at, ended_at }: AgreementRow): number => Date.parse(started_at ?? ended_at ?? '')

function OverTime({ slug }: { slug: string }) {
  const [window, setWindow] = useChoice('window', WINDOWS)
  const source = agreementSource(slug, { split: 'time', window })
  const report = useQuery(agreementQuery(source))
  const versions = useQuery(agreementQuery(agreementSource(slug, { split: 'guideline' }))).data?.rows ?? []
  return (
    <ReportCard
      title={t('overTime.title')}
      note={t('overTime.note')}
      source={source}
      query={report}
      filters={
        <SelectField
          label={t('overTime.window')}
          value={window}
          onChange={(event) => setWindow(event.target.value)}
          options={WINDOWS.map((name) => [name, t(`overTime.window.${name}`)])}
        />
      }
    >
      {({ rows }) => (
        <BandChart
          title={t('agreement.alpha')}
          around={[0, 1]}
          format={(value) => fixed(value)}
          marks={versions
            .filter(({ started_at }) => started_at !== null)
            .map(({ started_at, title, key }) => ({ at: Date.parse(started_at ?? ''), label: title || key }))}
          series={[
            { name: 'alpha', label: t('overTime.nominal'), points: pointsOf(rows, 'alpha') },
            {
              name: 'ordinal',
              label: t('overTime.ordinal'),
              // One band is enough: two on top of each other cannot be told apart.
              points: pointsOf(rows, 'alpha_ordinal').map(({ at, value, note }) => ({ at, value, note })),
            },
          ]}
        />
      )}
    </ReportCard>
  )
}

function pointsOf(rows: AgreementRow[], coefficient: 'alpha' | 'alpha_ordinal'): BandPoint[] {
  return rows
    .filter((row) => Number.isFinite(startOf(row)))
    .map((row) => {
      const { value, low, high, n, reason } = row[coefficient]
      return { at: startOf(row), value, low, high, note: value === null ? reasonText(reason) : t('estimate.n', { n }) }
    })
}

function Matrix({ slug }: { slug: string }) {
  const [weights, setWeights] = useChoice('weights', WEIGHTS)
  const source = matrixSource(slug, { weights })
  const report = useQuery(matrixQuery(source))
  return (
    <ReportCard
      title={t('matrix.title')}
      note={t('matrix.note')}
      source={source}
      query={report}
      filters={
        <SelectField
          label={t('matrix.weights')}
          value={weights}
          onChange={(event) => setWeights(event.target.value)}
          options={WEIGHTS.map((name) => [name, t(`matrix.weights.${name}`)])}
        />
      }
    >
      {(found) =>
        found.people.length < 2 ? (
          <Empty icon={Users} title={t('matrix.none')}>
            {t('matrix.noneText')}
          </Empty>
        ) : (
          <KappaMatrix report={found} />
        )
      }
    </ReportCard>
  )
}

const withResearchersColumns = (): Column<PersonSummary>[] => [
  { name: 'name', header: t('people.name'), cell: ({ name, pseudonym }) => name || pseudonym },
  { name: 'percent', header: t('agreement.percent'), cell: ({ reference }) => <Figure of={reference} /> },
  {
    name: 'kappa',
    header: t('records.kappa'),
    cell: ({ reference_kappa }) => <Figure of={reference_kappa} unit="coefficient" />,
  },
]

function WithResearchers({ slug }: { slug: string }) {
  const source = peopleSource(slug)
  const report = useQuery(peopleQuery(source))
  return (
    <ReportCard title={t('records.references')} source={source} query={report} flush>
      {({ people }) => <References people={people.filter(({ reference }) => reference.n > 0)} />}
    </ReportCard>
  )
}

function References({ people }: { people: PersonSummary[] }) {
  const part = usePart(people)
  if (people.length === 0) return <p className={styles.inset}>{t('records.noReferencesText')}</p>
  return (
    <DataTable caption={t('records.references')} columns={withResearchersColumns()} rowKey={({ id }) => id} {...part} />
  )
}
