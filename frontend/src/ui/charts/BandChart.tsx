/** Few points with their intervals, over time or over votes. Lines over shaded bands, and a table of the same. */
import { type PointerEvent, useId, useState } from 'react'
import styles from 'src/ui/charts/BandChart.module.css'
import { place, type Range, rangeOf, spread, ticks } from 'src/ui/charts/scale'
import { DASH, day, interval, measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { DataTable } from 'src/ui/widgets/DataTable'

/** A value at a time, in ms of the epoch, or after so many votes; null where there is none, which breaks the line. */
export type BandPoint = { at: number; value: number | null; low?: number | null; high?: number | null; note?: string }
/** Points in any order. */
export type BandSeries = { name: string; label: string; points: BandPoint[] }
export type BandMark = { at: number; label: string }

type BandChartProps = {
  title: string
  /** At most five: colours and dashes tell no more apart. */
  series: BandSeries[]
  marks?: BandMark[]
  /** Belongs to the axis in any case. */
  around?: number[]
  format?: (value: number) => string
  /** What the values lie over; dates where it is left out. */
  over?: { label: string; format: (at: number) => string }
}

const COLOURS = ['--series-1', '--series-2', '--series-3', '--series-4', '--series-5']
const DASHES = ['none', '6 4', '2 3', '10 3 2 3', '1 4']
const dates = () => ({ label: t('chart.time'), format: day })
/** Names of dates keep a quarter of the axis from each other. */
const LABELS = 4
/** More points than these are a line without dots. */
const MOST_POINTS = 40
/** Units of the drawing, which stretches to its box; strokes keep their width. */
const SIZE = 100

type Whole = BandPoint & { value: number }
const hasValue = (point: BandPoint): point is Whole => point.value !== null
const hasBand = (point: BandPoint): point is Whole & { low: number; high: number } =>
  hasValue(point) && typeof point.low === 'number' && typeof point.high === 'number'

/** Stretches of neighbours that all have what is asked for. */
export function runs<T, S extends T>(points: readonly T[], has: (point: T) => point is S): S[][] {
  const found: S[][] = []
  let open: S[] | null = null
  for (const point of points) {
    if (!has(point)) open = null
    else if (open) open.push(point)
    else {
      open = [point]
      found.push(open)
    }
  }
  return found
}

export function BandChart(props: BandChartProps) {
  const { title, marks = [], around = [], format = measured, over = dates() } = props
  const series = props.series.map((one) => ({ ...one, points: one.points.toSorted((a, b) => a.at - b.at) }))
  const [table, setTable] = useState(false)
  const [at, setAt] = useState<number | null>(null)
  const captionId = useId()
  const times = [...new Set(series.flatMap(({ points }) => points.map((point) => point.at)))].sort((a, b) => a - b)
  const first = times[0]
  const last = times.at(-1)
  const shown = at ?? last
  return (
    <figure className={styles.chart} aria-labelledby={captionId}>
      <div className={styles.head}>
        <h3>{title}</h3>
        {first !== undefined && (
          <Button
            look="quiet"
            small
            aria-pressed={table}
            aria-label={t(table ? 'chart.curveNamed' : 'chart.tableNamed', { title })}
            onClick={() => setTable(!table)}
          >
            {t(table ? 'chart.asCurve' : 'chart.asTable')}
          </Button>
        )}
      </div>
      <ul className={styles.legend} aria-hidden="true">
        {series.map(({ name, label, points }, index) => (
          <li key={name}>
            <svg width="20" height="8" aria-hidden="true">
              <line x1="0" x2="20" y1="4" y2="4" {...strokeOf(index)} />
            </svg>
            <span className="muted">{label}</span>
            <strong>{valueText(points.find((point) => point.at === shown) ?? null, format)}</strong>
          </li>
        ))}
        {shown !== undefined && <li className="muted">{over.format(shown)}</li>}
      </ul>
      {table ? (
        <BandTable title={title} series={series} times={times} format={format} over={over} />
      ) : (
        <Drawing {...{ series, marks, times, around, format, over, at }} onPoint={setAt} />
      )}
      <figcaption id={captionId} className={styles.caption}>
        {first === undefined || last === undefined
          ? t('chart.empty')
          : first === last
            ? t('chart.onePoint', { title, at: over.format(first) })
            : t('chart.bandCaption', { title, first: over.format(first), last: over.format(last) })}
      </figcaption>
    </figure>
  )
}

function strokeOf(index: number) {
  return {
    stroke: `var(${COLOURS[index % COLOURS.length]})`,
    strokeDasharray: DASHES[index % DASHES.length],
    strokeWidth: 2,
  }
}

function valueText(point: BandPoint | null, format: (value: number) => string): string {
  if (!point || !hasValue(point)) return DASH
  return hasBand(point)
    ? `${format(point.value)} ${interval(format(point.low), format(point.high))}`
    : format(point.value)
}

type DrawingProps = Required<Omit<BandChartProps, 'title'>> & {
  times: number[]
  at: number | null
  onPoint: (at: number | null) => void
}

function Drawing({ series, marks, times, around, format, over, at, onPoint }: DrawingProps) {
  const x: Range = { from: times[0] ?? 0, to: times.at(-1) ?? 0 }
  const y = rangeOf(
    series.flatMap(({ points }) => points.filter(hasValue).flatMap((one) => [one.value, one.low, one.high])),
    around,
  )
  const left = (time: number) => place(time, x) * SIZE
  const top = (value: number) => (1 - place(value, y)) * SIZE
  const nearest = (event: PointerEvent<HTMLDivElement>) => {
    const { left: start, width } = event.currentTarget.getBoundingClientRect()
    const time = x.from + ((event.clientX - start) / width) * (x.to - x.from)
    return times.reduce((best, one) => (Math.abs(one - time) < Math.abs(best - time) ? one : best), times[0] ?? 0)
  }
  return (
    <div className={styles.plot} aria-hidden="true">
      <div className={styles.values}>
        {ticks(y).map((tick) => (
          <span key={tick} style={{ insetBlockStart: `${top(tick)}%` }}>
            {format(tick)}
          </span>
        ))}
      </div>
      <div
        className={styles.area}
        onPointerMove={(event) => onPoint(nearest(event))}
        onPointerLeave={() => onPoint(null)}
      >
        <svg viewBox={`0 0 ${SIZE} ${SIZE}`} preserveAspectRatio="none" className={styles.svg} aria-hidden="true">
          {ticks(y).map((tick) => (
            <line key={tick} x1="0" x2={SIZE} y1={top(tick)} y2={top(tick)} className={styles.grid} />
          ))}
          {at !== null && <line x1={left(at)} x2={left(at)} y1="0" y2={SIZE} className={styles.cursor} />}
          {series.map(({ name, points }, index) => (
            <Line key={name} points={points} index={index} left={left} top={top} />
          ))}
        </svg>
        {marks
          .filter((mark) => mark.at >= x.from && mark.at <= x.to)
          .map((mark) => (
            <span key={mark.at} className={styles.mark} style={{ insetInlineStart: `${left(mark.at)}%` }}>
              {mark.label}
            </span>
          ))}
      </div>
      <div className={styles.dates}>
        {spread(times, LABELS).map((time) => (
          <span key={time} style={{ insetInlineStart: `${left(time)}%` }}>
            {over.format(time)}
          </span>
        ))}
      </div>
    </div>
  )
}

/** What is drawn as a dot: few points all, of many those without neighbours, which no line shows. */
function lone(points: BandPoint[]): Whole[] {
  if (points.length <= MOST_POINTS) return points.filter(hasValue)
  return runs(points, hasValue).flatMap((run) => (run.length === 1 ? run : []))
}

type LineProps = { points: BandPoint[]; index: number; left: (time: number) => number; top: (value: number) => number }

function Line({ points, index, left, top }: LineProps) {
  const path = (run: { at: number; y: number }[]) => run.map(({ at, y }) => `${left(at)},${top(y)}`).join(' L ')
  const { stroke, ...rest } = strokeOf(index)
  return (
    <>
      {runs(points, hasBand).map((run) => (
        <path
          key={`band ${run[0]?.at}`}
          className={styles.band}
          fill={stroke}
          stroke={stroke}
          d={`M ${path(run.map(({ at, high }) => ({ at, y: high })))} L ${path(run.map(({ at, low }) => ({ at, y: low })).reverse())} Z`}
        />
      ))}
      {runs(points, hasValue).map((run) => (
        <path
          key={`line ${run[0]?.at}`}
          className={styles.line}
          {...rest}
          stroke={stroke}
          d={`M ${path(run.map(({ at, value }) => ({ at, y: value })))}`}
        />
      ))}
      {lone(points).map(({ at, value }) => (
        <path key={at} className={styles.point} stroke={stroke} d={`M ${left(at)},${top(value)} h 0`} />
      ))}
    </>
  )
}

type BandTableProps = Pick<DrawingProps, 'series' | 'times' | 'format' | 'over'> & { title: string }

function BandTable({ title, series, times, format, over }: BandTableProps) {
  return (
    <div className={styles.table}>
      <DataTable
        caption={title}
        rows={times}
        rowKey={String}
        columns={[
          { name: 'at', header: over.label, cell: over.format },
          ...series.map(({ name, label, points }) => ({
            name,
            header: label,
            cell: (time: number) => {
              const point = points.find((one) => one.at === time)
              return (
                <>
                  {valueText(point ?? null, format)} {point?.note && <span className="muted">{point.note}</span>}
                </>
              )
            },
          })),
        ]}
      />
    </div>
  )
}
