/** Systems by strength, with intervals and ranks; by other models and under controls, beside the plain one. */
import { useQuery } from '@tanstack/react-query'
import { Trophy } from 'lucide-react'
import { useMemo } from 'react'
import { projectQuery } from 'src/api/queries'
import type { RankedSystem, RankingFit, RankingReport } from 'src/api/schema'
import { type RankingModel, rankingQuery, rankingSource } from 'src/api/statistics'
import { EloCurves } from 'src/statistics/EloCurves'
import { Definition, Downloads, ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { eloOf, onScale, rankText } from 'src/statistics/scales'
import { useChoice } from 'src/statistics/useChoice'
import { Figure } from 'src/ui/charts/Estimate'
import { type HeatCell, HeatMap } from 'src/ui/charts/HeatMap'
import { rangeOf } from 'src/ui/charts/scale'
import { Whiskers } from 'src/ui/charts/Whiskers'
import { cautionText, count, DASH, fixed, percent, reasonText } from 'src/ui/format'
import 'src/ui/i18n/statistics'
import { t } from 'src/ui/i18n/t'
import type { Column } from 'src/ui/widgets/DataTable'
import { DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Notice } from 'src/ui/widgets/States'
import { useParams, useSearchParams } from 'wouter'

const MODELS = [
  'rao_kupper',
  'davidson',
  'bradley_terry',
  'crowd_bt',
  'plackett_luce',
  'rank_centrality',
] as const satisfies RankingModel[]
/** What a ranking can be freed from; `people`: from the reliability and the side bias of each annotator. */
const CONTROLS = ['side', 'length', 'style', 'people'] as const

export default function Ranking() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, setSearch] = useSearchParams()
  const [model, setModel] = useChoice('model', MODELS)
  const criteria = useQuery(projectQuery(slug)).data?.form.criteria ?? []
  const [criterion, setCriterion] = useChoice('criterion', ['', ...criteria.map(({ key }) => key)])
  const asked = (search.get('controls') ?? '').split(',')
  const controls = CONTROLS.filter((name) => asked.includes(name))
  const source = rankingSource(slug, {
    model,
    controls: controls.join(',') || undefined,
    criterion: criterion || undefined,
  })
  const report = useQuery(rankingQuery(source))
  const toggle = (name: string, on: boolean) =>
    setSearch((params) => {
      const chosen = CONTROLS.filter((one) => (one === name ? on : controls.includes(one)))
      if (chosen.length > 0) params.set('controls', chosen.join(','))
      else params.delete('controls')
      return params
    })
  return (
    <Page title={t('nav.ranking')} intro={t('ranking.intro')}>
      <ReportCard
        title={t('ranking.title')}
        source={source}
        query={report}
        flush
        filters={
          <>
            <SelectField
              label={t('ranking.model')}
              value={model}
              onChange={(event) => setModel(event.target.value)}
              options={MODELS.map((name) => [name, t(`ranking.model.${name}`)])}
            />
            {criteria.length > 0 && (
              <SelectField
                label={t('ranking.criterion')}
                value={criterion}
                onChange={(event) => setCriterion(event.target.value)}
                options={[
                  ['', t('ranking.mainQuestion')],
                  ...criteria.map(({ key, label }): [string, string] => [key, label]),
                ]}
              />
            )}
            <ScaleChoice systems={report.data?.systems ?? []} />
            <fieldset className={styles.checks}>
              <legend>{t('ranking.controls')}</legend>
              {CONTROLS.map((name) => (
                <label key={name} className={styles.check}>
                  <input
                    type="checkbox"
                    checked={controls.includes(name)}
                    onChange={(event) => toggle(name, event.target.checked)}
                  />
                  {t(`ranking.control.${name}`)}
                </label>
              ))}
            </fieldset>
          </>
        }
      >
        {(found) => <Strengths report={found} />}
      </ReportCard>
      {report.data && report.data.systems.length > 0 && (
        <>
          {report.data.effects.length > 0 && (
            <Card
              flush
              title={t('ranking.effects')}
              note={t('ranking.effectsNote')}
              actions={<Downloads title={t('ranking.effects')} source={source} />}
            >
              <DataTable
                caption={t('ranking.effects')}
                columns={EFFECTS}
                rows={report.data.effects}
                rowKey={({ control }) => control}
              />
            </Card>
          )}
          {report.data.annotators.length > 0 && (
            <Card
              flush
              title={t('ranking.annotators')}
              note={t('ranking.annotatorsNote')}
              actions={<Downloads title={t('ranking.annotators')} source={source} />}
            >
              <DataTable
                caption={t('ranking.annotators')}
                columns={ANNOTATORS}
                rows={report.data.annotators}
                rowKey={({ id }) => id}
              />
            </Card>
          )}
          <Card
            title={t('winRates.title')}
            note={t('winRates.note')}
            actions={<Downloads title={t('winRates.title')} source={source} />}
          >
            <WinRates report={report.data} />
            <Definition text={report.data.definition} />
          </Card>
          <Card
            title={t('elo.title')}
            note={t('elo.note')}
            actions={<Downloads title={t('elo.title')} source={source} />}
          >
            <EloCurves report={report.data} />
            <Definition text={report.data.definition} />
          </Card>
        </>
      )}
    </Page>
  )
}

/** Logits, or the Elo scale on which a named system has 1000. */
function ScaleChoice({ systems }: { systems: RankedSystem[] }) {
  const [scale, setScale] = useChoice('scale', ['', ...systems.map(({ id }) => id)])
  return (
    <SelectField
      label={t('ranking.scale')}
      value={scale}
      onChange={(event) => setScale(event.target.value)}
      options={[
        ['', t('ranking.logits')],
        ...systems
          .filter(({ plain }) => plain.strength !== null)
          .map(({ id, name }): [string, string] => [id, t('ranking.eloOf', { name })]),
      ]}
    />
  )
}

function Strengths({ report }: { report: RankingReport }) {
  const { systems, votes, people, prompts, left_out, fit } = report
  const [search] = useSearchParams()
  if (systems.length === 0) {
    return (
      <Empty icon={Trophy} title={t('ranking.none')}>
        {t('ranking.noneText')}
      </Empty>
    )
  }
  const reference = systems.find(({ id }) => id === search.get('scale'))?.plain.strength ?? null
  const controlled = systems.some((system) => system.controlled !== null)
  const adjusted = systems.some((system) => system.adjusted !== null)
  const lanes: ('plain' | 'controlled' | 'adjusted')[] = [
    'plain',
    ...(controlled ? (['controlled'] as const) : []),
    ...(adjusted ? (['adjusted'] as const) : []),
  ]
  const groups = new Set(systems.map(({ component }) => component)).size
  const write = (strength: number | null) =>
    strength === null ? DASH : reference === null ? fixed(strength) : fixed(eloOf(strength - reference), 0)
  const before: Column<RankedSystem>[] = [
    { name: 'rank', header: t('ranking.rank'), cell: ({ plain }) => rankText(plain) },
    { name: 'name', header: t('ranking.system'), cell: ({ name }) => <strong>{name}</strong> },
  ]
  const after: Column<RankedSystem>[] = [
    ...lanes.map(
      (lane): Column<RankedSystem> => ({
        name: lane,
        header: t(`ranking.lane.${lane}`),
        cell: (system) => {
          const one = system[lane]
          if (!one || one.strength === null) return DASH
          return (
            <>
              {write(one.strength)}{' '}
              {one.low !== null && (
                <span className="muted">
                  [{write(one.low)}, {write(one.high)}]
                </span>
              )}
            </>
          )
        },
      }),
    ),
    { name: 'votes', header: t('people.votes'), align: 'end', cell: (system) => count(system.votes) },
    {
      name: 'comparisons',
      header: t('split.comparisons'),
      align: 'end',
      cell: ({ comparisons }) => count(comparisons),
    },
    ...(groups > 1
      ? [{ name: 'group', header: t('ranking.group'), cell: ({ component }: RankedSystem) => component + 1 }]
      : []),
  ]
  const marks = (system: RankedSystem) => lanes.map((lane) => onScale(system[lane], reference))
  const ends = systems.flatMap(marks).flatMap(({ value, low, high }) => [value, low, high])
  return (
    <>
      <div className={styles.inset}>
        <p className="muted">
          {t('ranking.restsOn', { votes, people, prompts })} {left_out > 0 && t('ranking.leftOut', { n: left_out })}
        </p>
        <Warnings fits={[fit, report.controlled_fit, report.adjusted_fit]} />
      </div>
      <Whiskers<RankedSystem>
        caption={t('ranking.title')}
        rows={systems}
        rowKey={({ id }) => id}
        columns={{ before, after }}
        marks={marks}
        series={lanes.map((lane) => t(`ranking.lane.${lane}`))}
        axis={{
          ...rangeOf(ends),
          label: t(reference === null ? 'ranking.logits' : 'ranking.elo'),
          format: (x) => fixed(x, reference === null ? 1 : 0),
          reference: reference === null ? 0 : eloOf(0),
        }}
      />
    </>
  )
}

/** Each said once, whichever of the fits says it. */
function Warnings({ fits }: { fits: (RankingFit | null)[] }) {
  const reasons = new Set(fits.flatMap((fit) => fit?.reason ?? []))
  const warnings = new Set(fits.flatMap((fit) => fit?.warnings ?? []))
  return (
    <>
      {[...reasons].map((code) => (
        <Notice key={code} tone="warn">
          {t('estimate.undefined', { reason: reasonText(code) })}
        </Notice>
      ))}
      {[...warnings].map((code) => (
        <Notice key={code} tone="warn">
          {cautionText(code)}
        </Notice>
      ))}
    </>
  )
}

const EFFECTS: Column<RankingReport['effects'][number]>[] = [
  { name: 'control', header: t('ranking.controls'), cell: ({ control }) => t(`ranking.control.${control}`) },
  { name: 'effect', header: t('bias.effect'), cell: ({ effect }) => <Figure of={effect} unit="coefficient" /> },
]

const ANNOTATORS: Column<RankingReport['annotators'][number]>[] = [
  { name: 'name', header: t('people.name'), cell: ({ name, pseudonym }) => <strong>{name || pseudonym}</strong> },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'follows', header: t('ranking.follows'), cell: ({ follows }) => <Figure of={follows} /> },
  {
    name: 'side',
    header: t('bias.side'),
    cell: ({ side_bias }) => (side_bias ? <Figure of={side_bias} unit="coefficient" /> : DASH),
  },
]

export function winCells({ systems, win_rates: { rate, low, high, n, model } }: RankingReport): (HeatCell | null)[][] {
  return systems.map((_, row) =>
    systems.map((_, column) => {
      if (row === column) return null
      const value = rate[row]?.[column] ?? null
      const expected = model[row]?.[column] ?? null
      const tail = expected === null ? '' : ` ${t('winRates.model', { rate: percent(expected) })}`
      if (value === null) return { shade: null, text: DASH, detail: `${t('winRates.never')}${tail}` }
      const from = low[row]?.[column] ?? null
      const to = high[row]?.[column] ?? null
      const range = from === null || to === null ? '' : ` [${fixed(from * 100, 0)}, ${fixed(to * 100, 0)}]`
      return {
        shade: value * 2 - 1,
        text: fixed(value * 100, 0),
        detail: `${percent(value)}${range}, ${t('estimate.n', { n: n[row]?.[column] ?? 0 })}.${tail}`,
      }
    }),
  )
}

function WinRates({ report }: { report: RankingReport }) {
  const cells = useMemo(() => winCells(report), [report])
  const names = report.systems.map(({ name }) => name)
  return (
    <HeatMap
      caption={t('winRates.title')}
      corner={t('winRates.corner')}
      rows={names}
      columns={names}
      cells={cells}
      ends={{ low: '0 %', middle: '50 %', high: '100 %' }}
      hint={t('winRates.hint')}
    />
  )
}
