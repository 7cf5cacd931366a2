/** Measured series with their intervals, over numbers, orders of magnitude or names; and a table of the same. */
import { useId, useLayoutEffect, useRef, useState } from 'react'
import type { ExperimentChart, ExperimentPoint, ExperimentSeries } from 'src/api/schema'
import styles from 'src/ui/charts/IntervalChart.module.css'
import {
  apart,
  beside,
  cut,
  FEW,
  hasEnds,
  isBounded,
  margins,
  namesOf,
  widthOf,
  type XAxis,
  xAxis,
  yRange,
} from 'src/ui/charts/intervals'
import { place, ticks } from 'src/ui/charts/scale'
import { DASH, interval, measured, measuredTogether, tickText } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { DataTable } from 'src/ui/widgets/DataTable'

const COLOURS = ['--series-1', '--series-2', '--series-3', '--series-4', '--series-5']
const DASHES = ['none', '6 4', '2 3', '10 3 2 3', '1 4']
/** The lines of a hatched bar in a square of 6; the first is filled. */
const HATCHES = [null, 'M0 6 6 0', 'M3 0v6', 'M0 0 6 6', 'M0 3h6']
/** Of the plot alone, and of a line of text, in px. */
const HEIGHT = 240
const LINE = 15
const FIRST_WIDTH = 640

const colourOf = (index: number) => `var(${COLOURS[index % COLOURS.length]})`
/** Colours come again after the fifth series, but never with the same dash, mark or hatch. */
const turnOf = (index: number) => (index + Math.floor(index / COLOURS.length)) % COLOURS.length

export function IntervalChart({ chart }: { chart: ExperimentChart }) {
  const { title, x, y, series } = chart
  const [table, setTable] = useState(false)
  const [box, width] = useWidth()
  const id = useId()
  return (
    <figure className={styles.chart} aria-labelledby={id}>
      <div className={styles.head}>
        <h3 lang="en">{title}</h3>
        <Button
          look="quiet"
          small
          aria-pressed={table}
          aria-label={t(table ? 'chart.drawingNamed' : 'chart.tableNamed', { title })}
          onClick={() => setTable(!table)}
        >
          {t(table ? 'chart.asDrawing' : 'chart.asTable')}
        </Button>
      </div>
      <div ref={box} className={styles.box}>
        {table ? (
          <ChartTable chart={chart} />
        ) : (
          <>
            {!hasEnds(chart, width) && <Legend series={series} />}
            <Drawing chart={chart} width={width} />
          </>
        )}
      </div>
      <figcaption id={id} className={styles.caption}>
        {t('chart.intervalCaption', { title, y: y.label, x: x.label })}
      </figcaption>
    </figure>
  )
}

/** The width of an element as it changes: text in a drawing that is stretched instead would be stretched with it. */
function useWidth() {
  const box = useRef<HTMLDivElement>(null)
  const [width, setWidth] = useState(FIRST_WIDTH)
  useLayoutEffect(() => {
    const node = box.current
    if (!node) return
    const look = () => setWidth(node.clientWidth || FIRST_WIDTH)
    look()
    const observer = new ResizeObserver(look)
    observer.observe(node)
    return () => observer.disconnect()
  }, [])
  return [box, width] as const
}

function Legend({ series }: { series: ExperimentSeries[] }) {
  const id = useId()
  return (
    <ul className={styles.legend} aria-hidden="true" lang="en">
      {series.map(({ name, kind }, index) => (
        <li key={name}>
          <svg width="26" height="12" aria-hidden="true">
            <Hatch id={`${id}${index}`} index={index} />
            {kind === 'bars' ? (
              <rect x="4" y="0.5" width="18" height="11" stroke={colourOf(index)} fill={fillOf(id, index)} />
            ) : (
              <>
                {kind === 'line' && <line x1="0" x2="26" y1="6" y2="6" {...strokeOf(index)} />}
                <Mark index={index} x={13} y={6} />
              </>
            )}
          </svg>
          {name}
        </li>
      ))}
    </ul>
  )
}

const strokeOf = (index: number) => ({
  stroke: colourOf(index),
  strokeDasharray: DASHES[turnOf(index)],
  strokeWidth: 2,
})
const fillOf = (id: string, index: number) => (turnOf(index) === 0 ? colourOf(index) : `url(#${id}${index})`)

function Hatch({ id, index }: { id: string; index: number }) {
  const lines = HATCHES[turnOf(index)]
  if (!lines) return null
  return (
    <pattern id={id} width="6" height="6" patternUnits="userSpaceOnUse">
      <path d={lines} stroke={colourOf(index)} strokeWidth="1.5" fill="none" />
    </pattern>
  )
}

/** Circle, square, diamond, triangles: the shape tells series apart where the colour does not. */
function Mark({ index, x, y }: { index: number; x: number; y: number }) {
  const turn = turnOf(index)
  const shapes = [
    `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`,
    `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
    `M${x} ${y - 4.5}l4.5 8h-9z`,
    `M${x} ${y + 4.5}l4.5 -8h-9z`,
  ]
  const isOpen = turn % 2 === 1
  return (
    <path
      d={shapes[turn]}
      stroke={colourOf(index)}
      strokeWidth="1.5"
      fill={isOpen ? 'var(--surface)' : colourOf(index)}
    />
  )
}

function Drawing({ chart, width }: { chart: ExperimentChart; width: number }) {
  const id = useId()
  const range = yRange(chart)
  const values = ticks(range)
  const room = margins(chart, width, values.map(tickText))
  const plot = Math.max(40, width - room.left - room.right)
  const axis = xAxis(chart, plot)
  const top = (value: number) => (1 - place(value, range)) * HEIGHT
  const ends = hasEnds(chart, width)
    ? apart(
        chart.series.map((one) => top(lastOf(one).y)),
        LINE,
        HEIGHT,
      )
    : []
  return (
    <svg
      width={width}
      height={HEIGHT + room.top + room.bottom}
      className={styles.svg}
      aria-hidden="true"
      lang="en"
      overflow="visible"
    >
      <text y="12">{chart.y.label}</text>
      <g transform={`translate(${room.left} ${room.top})`}>
        {values.map((value) => (
          <g key={value}>
            <line x1="0" x2={plot} y1={top(value)} y2={top(value)} className={styles.grid} />
            <text x="-8" y={top(value)} dy="0.35em" textAnchor="end">
              {tickText(value)}
            </text>
          </g>
        ))}
        <line x1="0" x2={plot} y1={HEIGHT} y2={HEIGHT} className={styles.axis} />
        {axis.ticks.map(({ at, label }) =>
          room.turned ? (
            <text key={at} transform={`translate(${at + 4} ${HEIGHT + 14}) rotate(-40)`} textAnchor="end">
              {label}
            </text>
          ) : (
            <text key={at} x={at} y={HEIGHT + 17} textAnchor="middle">
              {label}
            </text>
          ),
        )}
        <text x={plot / 2} y={HEIGHT + room.bottom - 5} textAnchor="middle">
          {chart.x.label}
        </text>
        {chart.series.map((one, index) => (
          <Series
            key={one.name}
            {...{ chart, one, index, axis, top }}
            id={`${id}${index}`}
            base={top(Math.max(range.from, Math.min(0, range.to)))}
          />
        ))}
        <Lines chart={chart} axis={axis} top={top} plot={plot} />
        {ends.map((at, index) => (
          <text
            key={chart.series[index]?.name}
            x={plot + 10}
            y={at}
            dy="0.35em"
            className={styles.end}
            fill={colourOf(index)}
          >
            {cut(chart.series[index]?.name ?? '')}
          </text>
        ))}
      </g>
    </svg>
  )
}

const lastOf = ({ points }: ExperimentSeries): ExperimentPoint =>
  points.reduce((last, point) => (Number(point.x) >= Number(last.x) ? point : last))

type SeriesProps = {
  chart: ExperimentChart
  one: ExperimentSeries
  index: number
  id: string
  axis: XAxis
  top: (value: number) => number
  /** Where bars begin. */
  base: number
}

function Series({ chart, one, index, id, axis, top, base }: SeriesProps) {
  const { shift, of } = beside(chart, index)
  const wide = Math.min(56, (axis.slot * 0.76) / of)
  const left = (point: ExperimentPoint) => axis.at(point.x) + shift * wide
  const points = chart.x.scale === 'category' ? one.points : one.points.toSorted((a, b) => Number(a.x) - Number(b.x))
  const bounded = points.filter(isBounded)
  const hasBand = one.kind === 'line' && bounded.length > FEW
  const path = (places: string[]) => places.join(' L ')
  return (
    <g>
      <Hatch id={id} index={index} />
      {hasBand && (
        <path
          className={styles.band}
          fill={colourOf(index)}
          d={`M ${path([
            ...bounded.map((point) => `${left(point)},${top(point.high)}`),
            ...bounded.toReversed().map((point) => `${left(point)},${top(point.low)}`),
          ])} Z`}
        />
      )}
      {one.kind === 'line' && (
        <path
          fill="none"
          {...strokeOf(index)}
          d={`M ${path(points.map((point) => `${left(point)},${top(point.y)}`))}`}
        />
      )}
      {points.map((point) => (
        <g key={point.x}>
          <title>{`${one.name}, ${placeText(point.x)}: ${pointText(point)}`}</title>
          {one.kind === 'bars' && (
            <rect
              x={left(point) - wide / 2 + 1}
              width={Math.max(1, wide - 2)}
              y={Math.min(base, top(point.y))}
              height={Math.abs(base - top(point.y))}
              stroke={colourOf(index)}
              fill={turnOf(index) === 0 ? colourOf(index) : `url(#${id})`}
            />
          )}
          {!hasBand && isBounded(point) && (
            <Whisker
              x={left(point)}
              from={top(point.low)}
              to={top(point.high)}
              colour={one.kind === 'bars' ? 'var(--text)' : colourOf(index)}
            />
          )}
          {one.kind !== 'bars' && <Mark index={index} x={left(point)} y={top(point.y)} />}
        </g>
      ))}
    </g>
  )
}

function Whisker({ x, from, to, colour }: { x: number; from: number; to: number; colour: string }) {
  return (
    <path d={`M${x - 4} ${from}h8m-4 0V${to}m-4 0h8`} stroke={colour} strokeWidth="1.5" fill="none" data-whisker="" />
  )
}

type LinesProps = Pick<SeriesProps, 'chart' | 'axis' | 'top'> & { plot: number }

/** Above the series, each label on a ground of its own, so that no bar hides it. */
function Lines({ chart, axis, top, plot }: LinesProps) {
  return chart.lines.map(({ axis: across, at, label }) => {
    if (across === 'y') {
      return (
        <g key={`y ${at} ${label}`} className={styles.reference}>
          <line x1="0" x2={plot} y1={top(at)} y2={top(at)} />
          <rect x={plot - widthOf(label)} y={top(at) - LINE - 2} width={widthOf(label)} height={LINE} />
          <text x={plot - widthOf(label) / 2} y={top(at) - 6} textAnchor="middle">
            {cut(label)}
          </text>
        </g>
      )
    }
    const x = axis.at(at)
    const left = x > plot / 2 ? x - widthOf(label) - 2 : x + 2
    return (
      <g key={`x ${at} ${label}`} className={styles.reference}>
        <line x1={x} x2={x} y1="0" y2={HEIGHT} />
        <rect x={left} y="-2" width={widthOf(label)} height={LINE} />
        <text x={left + widthOf(label) / 2} y="9" textAnchor="middle">
          {cut(label)}
        </text>
      </g>
    )
  })
}

const placeText = (x: number | string): string => (typeof x === 'number' ? measured(x) : x)

function pointText(point: ExperimentPoint | undefined): string {
  if (!point) return DASH
  if (!isBounded(point)) return measured(point.y)
  const [value = '', low = '', high = ''] = measuredTogether([point.y, point.low, point.high])
  return `${value} ${interval(low, high)}`
}

function ChartTable({ chart }: { chart: ExperimentChart }) {
  const places: (number | string)[] =
    chart.x.scale === 'category'
      ? namesOf(chart)
      : [...new Set(chart.series.flatMap(({ points }) => points.map(({ x }) => Number(x))))].sort((a, b) => a - b)
  return (
    <div className={styles.table} lang="en">
      <DataTable
        caption={chart.title}
        rows={places}
        rowKey={String}
        columns={[
          { name: 'x', header: chart.x.label, cell: placeText },
          ...chart.series.map(({ name, points }) => ({
            name: `series ${name}`,
            header: name,
            cell: (x: number | string) => pointText(points.find((point) => point.x === x)),
          })),
        ]}
      />
    </div>
  )
}
