/** Systems by strength: plain, and beside it under the controls that were asked for. */
import { Trophy } from 'lucide-react'
import type { RankedSystem, RankingReport } from 'src/api/schema'
import { MODELS } from 'src/api/statistics'
import { Doubts } from 'src/statistics/Doubts'
import styles from 'src/statistics/Statistics.module.css'
import { eloOf, onScale, rankText } from 'src/statistics/scales'
import { rangeOf } from 'src/ui/charts/scale'
import { Whiskers } from 'src/ui/charts/Whiskers'
import { count, DASH, fixed } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import type { Column } from 'src/ui/widgets/DataTable'
import { Empty } from 'src/ui/widgets/States'
import { useSearchParams } from 'wouter'

const LANES = ['plain', 'controlled', 'adjusted'] as const
type Lane = (typeof LANES)[number]

const columnsBefore = (): Column<RankedSystem>[] => [
  { name: 'rank', header: t('ranking.rank'), cell: ({ plain }) => rankText(plain) },
  { name: 'name', header: t('ranking.system'), cell: ({ name }) => <strong>{name}</strong> },
]
const columnsAfter = (): Column<RankedSystem>[] => [
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'comparisons', header: t('split.comparisons'), align: 'end', cell: ({ comparisons }) => count(comparisons) },
]
const groupColumn = (): Column<RankedSystem> => ({
  name: 'group',
  header: t('ranking.group'),
  cell: ({ component }) => component + 1,
})

const FITS = { plain: 'fit', controlled: 'controlled_fit', adjusted: 'adjusted_fit' } as const

/** With its model, where that is another than was asked for: not every model takes every control. */
function laneTitle(lane: Lane, report: RankingReport): string {
  const title = t(`ranking.lane.${lane}`)
  const model = MODELS.find((name) => name === report[FITS[lane]]?.model)
  if (lane === 'plain' || model === undefined || model === report.model) return title
  return t('ranking.laneBy', { lane: title, model: t(`ranking.model.${model}`) })
}

/** The interval is that of the strength; on the Elo scale it moves along with its middle. */
const laneColumn = (lane: Lane, header: string, reference: number | null): Column<RankedSystem> => ({
  name: lane,
  header,
  cell: (system) => {
    const { value, low, high } = onScale(system[lane], reference)
    const write = (x: number) => fixed(x, reference === null ? 2 : 0)
    if (value === null) return DASH
    if (low === null || high === null) return write(value)
    return (
      <>
        {write(value)}{' '}
        <span className="muted">
          [{write(low)}, {write(high)}]
        </span>
      </>
    )
  },
})

export function Strengths({ report }: { report: RankingReport }) {
  const { systems, votes, people, prompts, left_out, fit } = report
  const [search] = useSearchParams()
  if (systems.length === 0) {
    return (
      <Empty icon={Trophy} title={t('ranking.none')}>
        {t('ranking.noneText')}
      </Empty>
    )
  }
  const named = systems.find(({ id }) => id === search.get('scale'))
  // Each ranking has its own origin, so the reference stands at 1000 in each.
  const referenceOf = (lane: Lane) => named?.[lane]?.strength ?? named?.plain.strength ?? null
  const lanes = LANES.filter((lane) => systems.some((system) => system[lane] !== null))
  const isElo = referenceOf('plain') !== null
  const groups = new Set(systems.map(({ component }) => component)).size
  const marks = (system: RankedSystem) => lanes.map((lane) => onScale(system[lane], referenceOf(lane)))
  const ends = systems.flatMap(marks).flatMap(({ value, low, high }) => [value, low, high])
  return (
    <>
      <div className={styles.inset}>
        <p className="muted">
          {t('ranking.restsOn', { votes, people, prompts })} {left_out > 0 && t('ranking.leftOut', { n: left_out })}
        </p>
        <Doubts of={[fit, report.controlled_fit, report.adjusted_fit]} />
      </div>
      <Whiskers<RankedSystem>
        caption={t('ranking.title')}
        rows={systems}
        rowKey={({ id }) => id}
        columns={{
          before: columnsBefore(),
          after: [
            ...lanes.map((lane) => laneColumn(lane, laneTitle(lane, report), referenceOf(lane))),
            ...columnsAfter(),
            ...(groups > 1 ? [groupColumn()] : []),
          ],
        }}
        marks={marks}
        series={lanes.map((lane) => laneTitle(lane, report))}
        axis={{
          ...rangeOf(ends),
          label: t(isElo ? 'ranking.elo' : 'ranking.logits'),
          format: (x) => fixed(x, isElo ? 0 : 1),
          reference: isElo ? eloOf(0) : 0,
        }}
      />
    </>
  )
}
