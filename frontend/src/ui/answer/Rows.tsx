/** Rows of points, one radiogroup each: a digit answers the row at hand and moves on, N is “not applicable”. */
import { type KeyboardEvent, useId, useState } from 'react'
import styles from 'src/ui/answer/Answer.module.css'
import { t } from 'src/ui/i18n/t'

export type Option = { value: string; label: string; text: string; anchor?: string }
export type RowSpec = {
  /** The field of the answer, such as `criteria.accuracy`. */
  field: string
  label: string
  help?: string
  options: Option[]
  value: string | undefined
  low?: string
  high?: string
}

type RowsProps = { rows: RowSpec[]; onAnswer: (field: string, value: string) => void; hidden?: boolean }

export function Rows({ rows, onAnswer }: RowsProps) {
  const onKeyDown = (event: KeyboardEvent<HTMLDivElement>) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    if (step === undefined || event.altKey) return
    // Up and down change the row; left and right are the radiogroup's own.
    event.preventDefault()
    const groups = [...event.currentTarget.querySelectorAll<HTMLElement>('[data-field]')]
    const now = groups.findIndex((group) => group.contains(event.target as Node))
    focusRow(groups[now + step])
  }
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: moves the focus between the radiogroups inside.
    <div className={styles.rows} onKeyDown={onKeyDown}>
      {rows.map((row) => (
        <Row key={row.field} row={row} onAnswer={onAnswer} />
      ))}
    </div>
  )
}

function Row({ row, onAnswer }: { row: RowSpec; onAnswer: RowsProps['onAnswer'] }) {
  const id = useId()
  const [near, setNear] = useState<string | null>(null)
  const anchor = row.options.find(({ value }) => value === (near ?? row.value))?.anchor
  // A row with anchors keeps the line free, so that nothing moves when one appears.
  const help = anchor ?? (row.help || (row.options.some((option) => option.anchor) ? '' : undefined))
  return (
    <fieldset
      className={styles.row}
      data-field={row.field}
      aria-labelledby={`${id}-label`}
      aria-describedby={help ? `${id}-help` : undefined}
      onBlur={() => setNear(null)}
    >
      <div className={styles.rowLabel}>
        <div id={`${id}-label`}>{row.label}</div>
        {help !== undefined && (
          <div className={styles.rowHelp} id={`${id}-help`}>
            {help}
          </div>
        )}
      </div>
      <div className={styles.points}>
        {row.low && (
          <span className={styles.end} aria-hidden="true">
            {row.low}
          </span>
        )}
        {row.options.map(({ value, label, text }) => (
          <label key={value} className={styles.point} data-apart={value === NOT_APPLICABLE || undefined} title={label}>
            <input
              type="radio"
              name={id}
              value={value}
              checked={row.value === value}
              aria-label={label}
              onFocus={() => setNear(value)}
              onChange={() => onAnswer(row.field, value)}
            />
            <span aria-hidden="true">{text}</span>
          </label>
        ))}
        {row.high && (
          <span className={styles.end} aria-hidden="true">
            {row.high}
          </span>
        )}
      </div>
    </fieldset>
  )
}

/** The answered point of a row, or its first. */
export function focusRow(group: Element | null | undefined): void {
  const radio = group?.querySelector<HTMLElement>('input:checked') ?? group?.querySelector<HTMLElement>('input')
  radio?.focus()
  group?.scrollIntoView?.({ block: 'nearest', inline: 'nearest' })
}

export const NOT_APPLICABLE = 'na'

/** Points 1…n, with what each means where the form says. */
export function pointOptions(points: number, anchors: string[] = [], na = false): Option[] {
  const options = Array.from({ length: points }, (_, index): Option => {
    const anchor = anchors[index]
    const text = String(index + 1)
    return {
      value: text,
      text,
      anchor,
      label: anchor ? `${text}: ${anchor}` : t('rating.point', { point: text, points }),
    }
  })
  if (na) options.push({ value: NOT_APPLICABLE, text: t('rating.naShort'), label: t('rating.na') })
  return options
}
