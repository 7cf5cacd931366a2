/** A matrix as a coloured table: one stop of the tab key, arrows inside, and what a cell says written below it. */
import { type KeyboardEvent, memo, type SyntheticEvent, useRef, useState } from 'react'
import styles from 'src/ui/charts/HeatMap.module.css'

export type HeatCell = {
  /** −1 to 1: how far the colour leans to the low or the high end. Null: no value, hatched. */
  shade: number | null
  text: string
  /** The whole of it in words: value, interval, what it rests on, or why there is none. */
  detail: string
}

type HeatMapProps = {
  caption: string
  corner: string
  rows: string[]
  columns: string[]
  /** By row and column; null where there is nothing to say, as on a diagonal. Rows that did not change keep their identity. */
  cells: readonly (readonly (HeatCell | null)[])[]
  /** What the low end, the middle and the high end of the colours stand for; without a low end the middle comes first. */
  ends: { low?: string; middle: string; high: string }
  hint: string
}

/** More columns than this are shown by colour alone; their numbers are read one at a time. */
const WIDE = 16
/** Up to so many, names stand upright above their columns. */
const FEW = 6

function background(shade: number): string {
  const share = Math.round(Math.min(1, Math.abs(shade)) * 100)
  return `color-mix(in srgb, var(${shade < 0 ? '--heat-low' : '--heat-high'}) ${share}%, var(--surface))`
}

function cellAt(target: EventTarget): [number, number] | null {
  const cell = (target as Element).closest<HTMLElement>('[data-column]')
  const row = cell?.parentElement?.dataset.row
  return cell && row !== undefined ? [Number(row), Number(cell.dataset.column)] : null
}

export function HeatMap({ caption, corner, rows, columns, cells, ends, hint }: HeatMapProps) {
  const table = useRef<HTMLTableElement>(null)
  const [stop, setStop] = useState<[number, number]>([0, 0])
  const [shown, setShown] = useState<[number, number] | null>(null)
  const dense = columns.length > WIDE

  const point = (event: SyntheticEvent) => {
    const at = cellAt(event.target)
    if (at) setShown(at)
    if (at && event.type === 'focus') setStop(at)
  }
  const onKeyDown = (event: KeyboardEvent) => {
    const [row, column] = stop
    const bottom = rows.length - 1
    const end = columns.length - 1
    const moves: Record<string, [number, number]> = {
      ArrowDown: [Math.min(row + 1, bottom), column],
      ArrowUp: [Math.max(row - 1, 0), column],
      ArrowRight: [row, Math.min(column + 1, end)],
      ArrowLeft: [row, Math.max(column - 1, 0)],
      Home: event.ctrlKey ? [0, 0] : [row, 0],
      End: event.ctrlKey ? [bottom, end] : [row, end],
    }
    const to = moves[event.key]
    if (!to) return
    event.preventDefault()
    table.current?.querySelector<HTMLElement>(`[data-row="${to[0]}"] > [data-column="${to[1]}"]`)?.focus()
  }
  const cell = shown && cells[shown[0]]?.[shown[1]]
  return (
    <div className={styles.map}>
      <div className={styles.scroll}>
        <table
          ref={table}
          // biome-ignore lint/a11y/noNoninteractiveElementToInteractiveRole: a table that arrows walk is a grid.
          role="grid"
          className={`${styles.table} ${dense ? styles.dense : ''} ${columns.length > FEW ? styles.many : ''}`}
          onPointerOver={point}
          onPointerLeave={() => setShown(null)}
          onFocus={point}
          onKeyDown={onKeyDown}
        >
          <caption className="visually-hidden">{caption}</caption>
          <thead>
            <tr>
              <th scope="col" className={styles.corner}>
                {corner}
              </th>
              {columns.map((name, column) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: two people may have one name.
                <th key={column} scope="col" title={name}>
                  <span>{name}</span>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((name, row) => (
              <HeatRow
                // biome-ignore lint/suspicious/noArrayIndexKey: two people may have one name.
                key={row}
                name={name}
                row={row}
                cells={cells[row] ?? []}
                stop={stop[0] === row ? stop[1] : -1}
                dense={dense}
              />
            ))}
          </tbody>
        </table>
      </div>
      <div className={styles.foot}>
        <p className={styles.readout} aria-hidden="true">
          {shown && cell ? (
            <>
              <strong>
                {rows[shown[0]]} · {columns[shown[1]]}
              </strong>{' '}
              {cell.detail}
            </>
          ) : (
            hint
          )}
        </p>
        <div className={`${styles.legend} ${ends.low === undefined ? '' : styles.both}`} aria-hidden="true">
          {ends.low !== undefined && <span>{ends.low}</span>}
          <span>{ends.middle}</span>
          <span>{ends.high}</span>
        </div>
      </div>
    </div>
  )
}

type HeatRowProps = {
  name: string
  row: number
  cells: readonly (HeatCell | null)[]
  /** The column that the tab key stops at; −1: none in this row. */
  stop: number
  dense: boolean
}

/** Apart and memoised: pointing at one of 3,600 cells must not draw the others again. */
const HeatRow = memo(function HeatRow({ name, row, cells, stop, dense }: HeatRowProps) {
  return (
    <tr data-row={row}>
      <th scope="row" title={name}>
        <span>{name}</span>
      </th>
      {cells.map((cell, column) => (
        <td
          // biome-ignore lint/suspicious/noArrayIndexKey: a cell is its place.
          key={column}
          // biome-ignore lint/a11y/noNoninteractiveElementToInteractiveRole: the role of a cell that can be walked to.
          role="gridcell"
          data-column={column}
          tabIndex={column === stop ? 0 : -1}
          aria-label={cell?.detail}
          className={cell === null ? styles.none : cell.shade === null ? styles.hatched : undefined}
          style={cell && cell.shade !== null ? { background: background(cell.shade) } : undefined}
        >
          {dense ? null : cell?.text}
        </td>
      ))}
    </tr>
  )
})
