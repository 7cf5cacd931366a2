/** Figures with their intervals, one row each, over one axis: a table whose widest column is drawn. */
import type { ReactNode } from 'react'
import { place, type Range, ticks } from 'src/ui/charts/scale'
import styles from 'src/ui/charts/Whiskers.module.css'
import { type Column, DataTable, type More } from 'src/ui/widgets/DataTable'

/** Value and interval; one without value is not drawn, and its words say why. */
export type Whisker = { value: number | null; low: number | null; high: number | null }

type WhiskersProps<Row> = {
  caption: string
  rows: Row[]
  rowKey: (row: Row) => string
  columns: { before: Column<Row>[]; after: Column<Row>[] }
  /** As many for each row as there are series: three at most. */
  marks: (row: Row) => Whisker[]
  series: string[]
  axis: Range & { label: string; format: (x: number) => string; reference?: number }
  more?: More
}

export function Whiskers<Row>({ caption, rows, rowKey, columns, marks, series, axis, more }: WhiskersProps<Row>) {
  const drawn: Column<Row> = {
    name: 'whiskers',
    header: <Axis axis={axis} />,
    cell: (row) => <Plot marks={marks(row)} axis={axis} />,
  }
  return (
    <>
      {series.length > 1 && (
        <ul className={styles.legend} aria-hidden="true">
          {series.map((name, index) => (
            <li key={name} className={looks[index]}>
              <span className={styles.dot} />
              {name}
            </li>
          ))}
        </ul>
      )}
      <DataTable
        caption={caption}
        columns={[...columns.before, drawn, ...columns.after]}
        rows={rows}
        rowKey={rowKey}
        more={more}
      />
    </>
  )
}

/** Colour and shape of the second and the third series; the first is the plain one. */
const looks = [undefined, styles.second, styles.third]

const percent = (x: number, axis: Range): string => `${place(x, axis) * 100}%`

function Axis({ axis }: { axis: WhiskersProps<never>['axis'] }): ReactNode {
  return (
    <div className={styles.head}>
      {axis.label}
      <div className={styles.axis} aria-hidden="true">
        {ticks(axis, 4).map((tick) => (
          <span key={tick} style={{ insetInlineStart: percent(tick, axis) }}>
            {axis.format(tick)}
          </span>
        ))}
      </div>
    </div>
  )
}

/** Mute: the columns beside it say the same in numbers. */
function Plot({ marks, axis }: { marks: Whisker[]; axis: Range & { reference?: number } }) {
  return (
    <div className={styles.plot} aria-hidden="true">
      {axis.reference !== undefined && (
        <div className={styles.reference} style={{ insetInlineStart: percent(axis.reference, axis) }} />
      )}
      {marks.map(({ value, low, high }, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a mark is its place among the series.
        <div key={index} className={`${styles.lane} ${looks[index] ?? ''}`}>
          {value !== null && low !== null && high !== null && (
            <div
              className={styles.whisker}
              style={{
                insetInlineStart: percent(low, axis),
                width: `${(place(high, axis) - place(low, axis)) * 100}%`,
              }}
            />
          )}
          {value !== null && <div className={styles.dot} style={{ insetInlineStart: percent(value, axis) }} />}
        </div>
      ))}
    </div>
  )
}
