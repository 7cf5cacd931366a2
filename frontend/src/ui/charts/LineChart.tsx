/** Curves on a canvas. A canvas is mute, so each chart says its last values and offers itself as a table. */
import 'uplot/dist/uPlot.min.css'
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from 'react'
import { align, type Curve, smooth } from 'src/ui/charts/curves'
import styles from 'src/ui/charts/LineChart.module.css'
import { measured, tickText } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import uPlot from 'uplot'

const COLOURS = ['--series-1', '--series-2', '--series-3', '--series-4', '--series-5']
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3], [1, 4]]
const TABLE_ROWS = 200
/** Curves with more points than a chart has columns several times over are one pixel wide: a join at every point makes a
 * wider line cost three times as much to paint, and shows no more. */
const DENSE = 1_500
/** Steps are whole: no tick between two of them. */
const WHOLE_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6]

/** The unit of what has none. */
const PLAIN = '1'
/** Less than this share of its size is no change that a curve should be drawn large for. */
const FLAT = 1e-3

/** From the first step to the last, with those at which something happened; a single one has room around it. */
function stepRange(
  chart: uPlot,
  low: number,
  high: number,
  marks: NonNullable<LineChartProps['marks']>,
): uPlot.Range.MinMax {
  const xs = chart.data[0]
  // Something else is a part that a person chose.
  const whole = low === xs[0] && high === xs.at(-1)
  const all = whole ? [low, high, ...marks.map(({ x }) => x)] : [low, high]
  const [from, to] = [Math.min(...all), Math.max(...all)]
  return from === to ? [from - 0.5, to + 0.5] : [from, to]
}

function valueRange(_: uPlot, low: number | null, high: number | null): uPlot.Range.MinMax {
  if (low === null || high === null || (low === 0 && high === 0)) return [0, 1]
  const least = FLAT * Math.max(Math.abs(low), Math.abs(high))
  if (low !== high && high - low < least) return [(low + high - least) / 2, (low + high + least) / 2]
  return uPlot.rangeNum(low, high, 0.1, true)
}

type LineChartProps = {
  title: string
  curves: Curve[]
  /** Drawn as a shaded interval around the first curve. */
  band?: { xs: number[]; low: number[]; high: number[] }
  unit: string
  help?: string
  /** Weight of the past in the bold line, 0 to 0.99; the faint line is what was measured. */
  smoothing: number
  height?: number
  syncKey: string
  /** Steps at which something happened: a line from top to bottom. What it was is told in words beside the charts. */
  marks?: readonly { x: number; tone: 'plain' | 'warn' | 'error' }[]
}

const NO_MARKS: NonNullable<LineChartProps['marks']> = []

const colourOf = (index: number) => COLOURS[index % COLOURS.length] ?? '--series-1'
/** Colours come again after the fifth curve, but never with the same dash. */
const dashOf = (index: number) => DASHES[(index + Math.floor(index / COLOURS.length)) % DASHES.length] ?? []

/** A custom property with `light-dark()` in it, as the colour it comes to. */
function resolve(property: string): string {
  const probe = document.createElement('span')
  probe.style.color = `var(${property})`
  document.body.append(probe)
  const colour = getComputedStyle(probe).color
  probe.remove()
  return colour
}

function faded(colour: string, alpha: number): string {
  const parts = colour.match(/[\d.]+/g)
  return parts && parts.length >= 3 ? `rgb(${parts[0]} ${parts[1]} ${parts[2]} / ${alpha})` : colour
}

export function LineChart(props: LineChartProps) {
  const { title, curves, band, unit, help, smoothing, height = 190, syncKey, marks = NO_MARKS } = props
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  const drawn = useRef<unknown>(null)
  const [hover, setHover] = useState<number | null>(null)
  const [table, setTable] = useState(false)
  const [themeTurn, setThemeTurn] = useState(0)
  const captionId = useId()

  // Kept while the cursor moves: to line up thousands of points again for each step of a mouse would be felt.
  const smoothed = useMemo(
    () => curves.map((curve) => ({ ...curve, ys: curve.sparse ? curve.ys : smooth(curve.ys, smoothing) })),
    [curves, smoothing],
  )
  const data = useMemo(() => {
    const banded = band
      ? [
          { xs: band.xs, ys: band.low },
          { xs: band.xs, ys: band.high },
        ]
      : []
    return align([...curves, ...smoothed, ...banded])
  }, [curves, smoothed, band])
  const marked = marks.map(({ x, tone }) => `${x}${tone}`).join()
  const dense = curves.some(({ xs }) => xs.length > DENSE)
  const shape = `${dense}|${curves.map((curve) => curve.name).join()}|${band ? 'band' : ''}|${smoothing > 0}|${table}|${marked}`

  useEffect(() => {
    const turn = () => setThemeTurn((n) => n + 1)
    const media = window.matchMedia('(prefers-color-scheme: dark)')
    window.addEventListener('winnow-theme', turn)
    media.addEventListener('change', turn)
    return () => {
      window.removeEventListener('winnow-theme', turn)
      media.removeEventListener('change', turn)
    }
  }, [])

  // biome-ignore lint/correctness/useExhaustiveDependencies: the plot is built per shape and theme; data arrives below.
  useLayoutEffect(() => {
    const node = box.current
    if (!node) return
    const n = curves.length
    const series: uPlot.Series[] = [{}]
    const line = (index: number, faint: boolean): uPlot.Series => {
      const colour = resolve(colourOf(index))
      return {
        stroke: faint ? faded(colour, 0.28) : colour,
        width: faint || dense ? 1 : 2,
        dash: faint ? [] : [...dashOf(index)],
        spanGaps: true,
        points: {
          show: !faint && (curves[index]?.sparse === true || (curves[index]?.xs.length ?? 0) < 2),
          size: 6,
          fill: colour,
        },
      }
    }
    for (let index = 0; index < n; index += 1) {
      series.push({ ...line(index, true), show: smoothing > 0 && curves[index]?.sparse !== true })
    }
    for (let index = 0; index < n; index += 1) series.push(line(index, false))
    if (band)
      for (let edge = 0; edge < 2; edge += 1)
        series.push({ stroke: 'transparent', spanGaps: true, points: { show: false } })
    const muted = resolve('--muted')
    const grid = { stroke: faded(resolve('--line'), 0.7), width: 1 }
    const axis: uPlot.Axis = {
      stroke: muted,
      grid,
      ticks: { show: false },
      font: '12px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif',
    }
    const chart = new uPlot(
      {
        width: node.clientWidth || 300,
        height,
        padding: [8, 12, 0, 0],
        scales: {
          x: { time: false, range: (chart, low, high) => stepRange(chart, low, high, marks) },
          y: { range: valueRange },
        },
        series,
        bands: band ? [{ series: [2 * n + 2, 2 * n + 1], fill: faded(resolve(colourOf(0)), 0.14) }] : [],
        axes: [
          { ...axis, size: 28, incrs: WHOLE_STEPS, values: (_, ticks) => ticks.map(tickText) },
          {
            ...axis,
            size: 54,
            values: (_, ticks) => ticks.map(tickText),
          },
        ],
        legend: { show: false },
        cursor: { sync: { key: syncKey }, y: false, points: { size: 7 } },
        hooks: {
          setCursor: [(chart) => setHover(chart.cursor.idx ?? null)],
          draw: [(chart) => drawMarks(chart, marks)],
        },
      },
      data as uPlot.AlignedData,
      node,
    )
    plot.current = chart
    drawn.current = data
    const observer = new ResizeObserver(() => chart.setSize({ width: node.clientWidth, height }))
    observer.observe(node)
    return () => {
      observer.disconnect()
      chart.destroy()
      plot.current = null
    }
  }, [shape, themeTurn, height, syncKey])

  useEffect(() => {
    // A plot that was built just now has them already.
    if (drawn.current !== data) plot.current?.setData(data as uPlot.AlignedData)
    drawn.current = data
  }, [data])

  const xs = data[0]
  const at = hover !== null && hover < xs.length ? hover : null
  const shownValue = (index: number): number | null => {
    if (at === null) return smoothed[index]?.ys.at(-1) ?? null
    return data[curves.length + 1 + index]?.[at] ?? null
  }
  const first = xs[0]
  const last = xs.at(-1)
  const caption =
    first === undefined || last === undefined
      ? t('chart.empty')
      : t('chart.caption', {
          title,
          first,
          last,
          value: measured(curves[0]?.ys.at(-1)),
          name: curves[0]?.label ?? title,
        })
  return (
    <figure className={styles.chart} aria-labelledby={captionId}>
      <div className={styles.head}>
        <h3 title={help || undefined}>{title}</h3>
        <Button
          look="quiet"
          small
          aria-pressed={table}
          aria-label={t(table ? 'chart.curveNamed' : 'chart.tableNamed', { title })}
          onClick={() => setTable(!table)}
        >
          {table ? t('chart.asCurve') : t('chart.asTable')}
        </Button>
      </div>
      <ul className={styles.legend} aria-hidden="true">
        {curves.map((curve, index) => (
          <li key={curve.name}>
            <svg width="20" height="8" aria-hidden="true">
              <line
                x1="0"
                x2="20"
                y1="4"
                y2="4"
                strokeWidth="2"
                strokeDasharray={dashOf(index).join(' ')}
                stroke={`var(${colourOf(index)})`}
              />
            </svg>
            <span className="muted">{curve.label}</span>
            <strong>{measured(shownValue(index))}</strong>
          </li>
        ))}
        {at !== null && <li className="muted">{t('chart.step', { step: xs[at] ?? 0 })}</li>}
      </ul>
      {table ? (
        <CurveTable title={title} curves={curves} />
      ) : (
        <div ref={box} className={styles.plot} style={{ height }} />
      )}
      <figcaption className={styles.caption}>
        <span id={captionId}>
          {caption}
          {unit && unit !== PLAIN && ` (${unit})`}
        </span>
      </figcaption>
    </figure>
  )
}

function drawMarks(chart: uPlot, marks: NonNullable<LineChartProps['marks']>) {
  const { ctx, bbox } = chart
  ctx.save()
  for (const { x, tone } of marks) {
    // What lies outside the part that is looked at is drawn at its edge.
    const at = Math.min(Math.max(Math.round(chart.valToPos(x, 'x', true)), bbox.left), bbox.left + bbox.width - 1)
    ctx.strokeStyle = resolve(tone === 'plain' ? '--muted' : `--${tone}`)
    ctx.lineWidth = (tone === 'error' ? 2 : 1) * devicePixelRatio
    ctx.setLineDash(tone === 'error' ? [] : [3 * devicePixelRatio, 3 * devicePixelRatio])
    ctx.beginPath()
    ctx.moveTo(at, bbox.top)
    ctx.lineTo(at, bbox.top + bbox.height)
    ctx.stroke()
  }
  ctx.restore()
}

function CurveTable({ title, curves }: { title: string; curves: Curve[] }) {
  const [xs, ...rows] = align(curves)
  const shown = xs.map((x, index) => ({ x, index })).slice(-TABLE_ROWS)
  return (
    <section className={styles.tableBox} tabIndex={0} aria-label={title}>
      <table className={styles.table}>
        <caption className="visually-hidden">{title}</caption>
        <thead>
          <tr>
            <th scope="col">{t('chart.stepColumn')}</th>
            {curves.map((curve) => (
              <th key={curve.name} scope="col">
                {curve.label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map(({ x, index }) => (
            <tr key={x}>
              <td>{x}</td>
              {curves.map((curve, column) => (
                <td key={curve.name}>{measured(rows[column]?.[index])}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  )
}
