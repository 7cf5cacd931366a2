/** How each person judges, and what sways votes besides quality: side, length, format, time. */
import { useQuery } from '@tanstack/react-query'
import { Users } from 'lucide-react'
import type { BiasReport, PeopleReport, PersonBias, PersonSummary, PooledEffect } from 'src/api/schema'
import { biasQuery, biasSource, peopleQuery, peopleSource } from 'src/api/statistics'
import { Doubts } from 'src/statistics/Doubts'
import { ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { useChoice } from 'src/statistics/useChoice'
import { usePart } from 'src/statistics/usePart'
import { BandChart } from 'src/ui/charts/BandChart'
import { EstimateFigure, Estimates, Figure } from 'src/ui/charts/Estimate'
import { rangeOf } from 'src/ui/charts/scale'
import { Whiskers } from 'src/ui/charts/Whiskers'
import { count, DASH, duration, fixed, percent, reasonText } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Badge } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Page } from 'src/ui/widgets/Page'
import { Empty } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

const BIASES = ['position', 'length', 'format'] as const

export default function Bias() {
  const { slug = '' } = useParams<{ slug: string }>()
  const source = biasSource(slug)
  const report = useQuery(biasQuery(source))
  const card = { source, query: report }
  return (
    <Page title={t('nav.bias')} intro={t('bias.intro')}>
      <People slug={slug} />
      <ReportCard title={t('bias.pooled')} note={t('bias.pooledNote')} flush {...card}>
        {(found) => <Pooled report={found} />}
      </ReportCard>
      <ReportCard title={t('bias.byPerson')} note={t('bias.byPersonNote')} flush {...card} filters={<WhichBias />}>
        {({ people }) => <ByPerson people={people} />}
      </ReportCard>
      <ReportCard table="consistency" title={t('bias.consistency')} note={t('bias.consistencyNote')} {...card}>
        {({ consistency }) => (
          <Estimates>
            <EstimateFigure label={t('bias.same')} estimate={consistency.same} unit="percent" bar />
            <EstimateFigure label={t('records.kappa')} estimate={consistency.kappa} unit="coefficient" />
            <EstimateFigure label={t('records.sideDriven')} estimate={consistency.side_driven} unit="percent" bar />
            <EstimateFigure label={t('bias.implied')} estimate={consistency.accuracy} unit="percent" bar />
          </Estimates>
        )}
      </ReportCard>
      <ReportCard table="windows" title={t('drift.title')} note={t('drift.note')} {...card}>
        {({ people }) => <Drift people={people} />}
      </ReportCard>
    </Page>
  )
}

const FLAGS: Record<string, Key> = {
  accuracy: 'flag.accuracy',
  position: 'flag.position',
  length: 'flag.length',
  format: 'flag.format',
  drift: 'flag.drift',
}

function Flags({ of }: { of: readonly string[] }) {
  return (
    <span className={styles.flags}>
      {of.map((name) => {
        const key = FLAGS[name]
        return (
          <Badge key={name} tone="warn">
            {key ? t(key) : name}
          </Badge>
        )
      })}
    </span>
  )
}

const nameOf = ({ name, pseudonym }: { name: string; pseudonym: string }) => name || pseudonym

const personColumns = (): Column<PersonSummary>[] => [
  {
    name: 'name',
    header: t('people.name'),
    cell: (row) => (
      <>
        <strong>{nameOf(row)}</strong> {row.excluded && <Badge tone="error">{t('people.excluded')}</Badge>}
        {row.pseudonym !== nameOf(row) && <div className="muted small">{row.pseudonym}</div>}
      </>
    ),
  },
  { name: 'flags', header: t('bias.flags'), cell: ({ flags }) => <Flags of={flags} /> },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'accuracy', header: t('bias.accuracy'), cell: ({ accuracy }) => <Figure of={accuracy} /> },
  { name: 'agreement', header: t('bias.leaveOneOut'), cell: ({ agreement }) => <Figure of={agreement} /> },
  { name: 'kappa', header: t('bias.kappa'), cell: ({ kappa }) => <Figure of={kappa} unit="coefficient" /> },
  { name: 'ties', header: t('records.ties'), cell: ({ tie_share }) => <Figure of={tie_share} /> },
  { name: 'left', header: t('records.left'), cell: ({ left_share }) => <Figure of={left_share} /> },
  { name: 'side', header: t('bias.side'), cell: ({ side_bias }) => <Figure of={side_bias} unit="coefficient" /> },
  {
    name: 'consistency',
    header: t('records.consistency'),
    cell: ({ consistency }) => <Figure of={consistency} />,
  },
  { name: 'gold', header: t('records.gold'), cell: ({ gold }) => <Figure of={gold} /> },
  {
    name: 'median',
    header: t('people.median'),
    align: 'end',
    cell: ({ median_seconds }) => (median_seconds === null ? DASH : duration(median_seconds)),
  },
]

function People({ slug }: { slug: string }) {
  const source = peopleSource(slug)
  const report = useQuery(peopleQuery(source))
  return (
    <ReportCard title={t('bias.people')} note={t('records.note')} source={source} query={report} flush>
      {({ people, lower_quartile }: PeopleReport) =>
        people.length === 0 ? (
          <Empty icon={Users} title={t('people.none')}>
            {t('people.noneText')}
          </Empty>
        ) : (
          <>
            <PeopleTable people={people} />
            {lower_quartile !== null && (
              <p className={`${styles.inset} muted small`}>{t('bias.quartile', { share: percent(lower_quartile) })}</p>
            )}
          </>
        )
      }
    </ReportCard>
  )
}

/** Flagged ones first; else as they came, the busiest first. */
const flaggedFirst = <Row,>(rows: Row[], isFlagged: (row: Row) => boolean): Row[] =>
  [...rows].sort((a, b) => Number(isFlagged(b)) - Number(isFlagged(a)))

function PeopleTable({ people }: { people: PersonSummary[] }) {
  const part = usePart(flaggedFirst(people, ({ flags }) => flags.length > 0))
  return <DataTable caption={t('bias.people')} columns={personColumns()} rowKey={({ id }) => id} {...part} />
}

/** An effect of zero belongs on the axis, and equally much to both sides of it. */
function axisOf(effects: { low: number | null; high: number | null; value: number | null }[], label: string) {
  const ends = effects.flatMap(({ value, low, high }) => [value, low, high])
  const { from, to } = rangeOf([...ends, ...ends.map((x) => (x === null ? null : -x))], [-0.4, 0.4])
  return { from, to, label, format: (x: number) => fixed(x, 1), reference: 0 }
}

const effectColumn = () => ({
  name: 'effect',
  header: t('bias.effect'),
  cell: ({ effect }: OneEffect) => <Figure of={effect} unit="coefficient" />,
})

const pooledColumns = (): Column<PooledEffect>[] => [
  { name: 'effect', header: t('bias.middle'), cell: ({ effect }) => <Figure of={effect} unit="coefficient" /> },
  { name: 'pooled', header: t('bias.allAlike'), cell: ({ pooled }) => <Figure of={pooled} unit="coefficient" /> },
  { name: 'tau', header: t('bias.tau'), align: 'end', cell: ({ tau }) => (tau === null ? DASH : fixed(tau)) },
]

function Pooled({ report: { effects, votes, prompts, reason, warnings } }: { report: BiasReport }) {
  return (
    <>
      <div className={styles.inset}>
        <p className="muted">{t('bias.restsOn', { votes, prompts })}</p>
        <Doubts of={[{ reason, warnings }]} />
      </div>
      {reason === null && (
        <Whiskers<PooledEffect>
          caption={t('bias.pooled')}
          rows={effects}
          rowKey={({ bias }) => bias}
          columns={{
            before: [{ name: 'bias', header: t('nav.bias'), cell: ({ bias }) => t(`bias.towards.${bias}`) }],
            after: pooledColumns(),
          }}
          marks={({ effect, pooled }) => [effect, pooled]}
          series={[t('bias.middle'), t('bias.allAlike')]}
          axis={axisOf(
            effects.flatMap(({ effect, pooled }) => [effect, pooled]),
            t('ranking.logits'),
          )}
        />
      )}
    </>
  )
}

function WhichBias() {
  const [bias, setBias] = useChoice('bias', BIASES)
  return (
    <SelectField
      label={t('nav.bias')}
      value={bias}
      onChange={(event) => setBias(event.target.value)}
      options={BIASES.map((name) => [name, t(`bias.towards.${name}`)])}
    />
  )
}

type OneEffect = PersonBias & { effect: PersonBias['effects'][number]['effect']; flagged: boolean }

function ByPerson({ people }: { people: PersonBias[] }) {
  const [bias] = useChoice('bias', BIASES)
  const rows = people.flatMap((person): OneEffect[] => {
    const found = person.effects.find((one) => one.bias === bias)
    return found ? [{ ...person, effect: found.effect, flagged: found.flagged }] : []
  })
  const part = usePart(flaggedFirst(rows, ({ flagged }) => flagged))
  if (rows.every(({ effect }) => effect.value === null)) {
    return <p className={styles.inset}>{t('bias.noneByPerson')}</p>
  }
  return (
    <Whiskers<OneEffect>
      caption={t('bias.byPerson')}
      {...part}
      rowKey={({ id }) => id}
      columns={{
        before: [{ name: 'name', header: t('people.name'), cell: (row) => <strong>{nameOf(row)}</strong> }],
        after: [
          effectColumn(),
          { name: 'flag', header: t('bias.flags'), cell: ({ flagged }) => <Flags of={flagged ? [bias] : []} /> },
        ],
      }}
      marks={({ effect }) => [effect]}
      series={[t('bias.effect')]}
      axis={axisOf(
        rows.map(({ effect }) => effect),
        t('ranking.logits'),
      )}
    />
  )
}

const driftColumns = (): Column<PersonBias>[] => [
  { name: 'name', header: t('people.name'), cell: (row) => <strong>{nameOf(row)}</strong> },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'slope', header: t('drift.slope'), cell: ({ drift }) => <Figure of={drift} unit="coefficient" /> },
  {
    name: 'flag',
    header: t('bias.flags'),
    cell: ({ drift_flagged }) => <Flags of={drift_flagged ? ['drift'] : []} />,
  },
]

function Drift({ people }: { people: PersonBias[] }) {
  const [id, setId] = useChoice(
    'person',
    people.map((person) => person.id),
  )
  const part = usePart(flaggedFirst(people, ({ drift_flagged }) => drift_flagged))
  const person = people.find((one) => one.id === id)
  if (!person) return <p>{t('bias.noneByPerson')}</p>
  return (
    <>
      <DataTable caption={t('drift.title')} columns={driftColumns()} rowKey={(row) => row.id} {...part} />
      <div className={styles.sub}>
        <div className={styles.filters}>
          <SelectField
            label={t('drift.person')}
            value={id}
            onChange={(event) => setId(event.target.value)}
            options={people.map((one) => [one.id, nameOf(one)])}
          />
        </div>
        <BandChart
          title={t('drift.windows', { name: nameOf(person) })}
          format={(share) => percent(share)}
          around={[0, 1]}
          series={[
            {
              name: 'agreement',
              label: t('bias.leaveOneOut'),
              points: person.windows.map(({ ended_at, votes, agreement: { value, low, high, reason } }) => ({
                at: Date.parse(ended_at),
                value,
                low,
                high,
                note: value === null ? reasonText(reason) : t('home.votes', { n: votes }),
              })),
            },
          ]}
        />
      </div>
    </>
  )
}
