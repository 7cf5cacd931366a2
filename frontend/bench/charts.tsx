/** Six charts of four curves with 5,000 points each, as a run's page draws them, and how long one more point takes. */
import 'src/ui/base.css'
import { flushSync } from 'react-dom'
import { createRoot } from 'react-dom/client'
import { LineChart } from 'src/ui/charts/LineChart'
import { speak } from 'src/ui/i18n/languages'

const CHARTS = 6
const CURVES = 4
const POINTS = 5_000

declare global {
  interface Window {
    /** Adds a point to every curve; the milliseconds until it is painted. */
    tick: (smoothing: number) => Promise<number>
  }
}

/** Noise around a falling curve; the same at every start. */
function value(chart: number, curve: number, step: number): number {
  const noise = Math.sin(step * 12.9898 + chart * 78.233 + curve * 37.719) * 43758.5453
  return 2 / (1 + step / 800) + curve * 0.1 + (noise - Math.floor(noise)) * 0.2
}

/** New arrays each time, as after each answer of the server. */
const curvesOf = (chart: number, points: number) =>
  Array.from({ length: CURVES }, (_, curve) => {
    const xs = Array.from({ length: points }, (_, step) => step)
    return { name: `c${curve}`, label: `Curve ${curve}`, xs, ys: xs.map((step) => value(chart, curve, step)) }
  })

const node = document.getElementById('root')
if (!node) throw new Error('index.html has no #root')
const root = createRoot(node)

function draw(all: ReturnType<typeof curvesOf>[], smoothing: number): void {
  root.render(
    <div style={{ display: 'grid', gridTemplateColumns: 'repeat(3, 1fr)', gap: 16 }}>
      {all.map((curves, chart) => (
        <LineChart
          // biome-ignore lint/suspicious/noArrayIndexKey: the charts never move.
          key={chart}
          title={`Chart ${chart}`}
          curves={curves}
          unit=""
          smoothing={smoothing}
          syncKey="bench"
        />
      ))}
    </div>,
  )
}

let points = POINTS
const dataOf = () => Array.from({ length: CHARTS }, (_, chart) => curvesOf(chart, points))

window.tick = (smoothing) =>
  new Promise((resolve) => {
    points += 1
    const data = dataOf()
    const start = performance.now()
    flushSync(() => draw(data, smoothing))
    requestAnimationFrame(() => {
      const channel = new MessageChannel()
      channel.port1.onmessage = () => {
        channel.port1.close()
        resolve(performance.now() - start)
      }
      channel.port2.postMessage(0)
    })
  })

await speak('en')
draw(dataOf(), 0.6)
