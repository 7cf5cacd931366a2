/** A number that guides a decision: value, interval and what it rests on, or why there is none. */
import type { ReactNode } from 'react'
import styles from 'src/ui/charts/Estimate.module.css'
import { type EstimateLike, type EstimateUnit, estimateText, shortCaution, shortReason } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

type IntervalBarProps = { low: number; high: number; value: number; from?: number; to?: number }

export function IntervalBar({ low, high, value, from = 0, to = 1 }: IntervalBarProps) {
  const at = (x: number) => Math.min(100, Math.max(0, ((x - from) / (to - from)) * 100))
  return (
    <div className={styles.bar} aria-hidden="true">
      <div className={styles.band} style={{ insetInlineStart: `${at(low)}%`, width: `${at(high) - at(low)}%` }} />
      <div className={styles.tick} style={{ insetInlineStart: `${at(value)}%` }} />
    </div>
  )
}

const shortCautions = ({ warnings = [] }: EstimateLike): string[] =>
  warnings.map(shortCaution).filter((words) => words !== '')

type EstimateProps = {
  label: string
  estimate: EstimateLike
  unit: EstimateUnit
  note?: string
  bar?: boolean
  from?: number
}

/** Figures side by side, as many as there is room for. */
export function Estimates({ children }: { children: ReactNode }) {
  return <div className={styles.estimates}>{children}</div>
}

export function EstimateFigure({ label, estimate, unit, note, bar, from = 0 }: EstimateProps) {
  const { value, range, why } = estimateText(estimate, unit)
  const { low, high } = estimate
  return (
    <div className={styles.estimate}>
      <div className={styles.label}>{label}</div>
      <div className={styles.line}>
        <span className={styles.value}>{value}</span>
        {range && (
          <span className={styles.range} title={t('estimate.interval')}>
            {range}
          </span>
        )}
      </div>
      {bar && estimate.value !== null && low !== null && high !== null && (
        <IntervalBar low={low} high={high} value={estimate.value} from={from} />
      )}
      <div className={styles.note}>
        {[note ?? t('estimate.n', { n: estimate.n }), ...shortCautions(estimate)].join(' · ')}
        {why && <div>{why}</div>}
      </div>
    </div>
  )
}

/** The same in one line, for tables. */
export function EstimateInline({ estimate, unit }: { estimate: EstimateLike; unit: EstimateUnit }) {
  const { value, range, why } = estimateText(estimate, unit)
  return (
    <span className="nowrap tabular" title={why ?? undefined}>
      {value} {range && <span className="muted">{range}</span>}
    </span>
  )
}

/** For tables: interval and n below the value, or in few words why there is none. */
export function Figure({ of, unit = 'percent' }: { of: EstimateLike; unit?: EstimateUnit }) {
  const { value, range, why } = estimateText(of, unit)
  return (
    <span className={styles.figure}>
      {value}
      <span className={styles.rests}>
        {of.value === null ? (
          <span className="nowrap" title={why ?? undefined}>
            {shortReason(of.reason)}
          </span>
        ) : (
          <>
            <span className="nowrap" title={range ? t('estimate.interval') : (why ?? undefined)}>
              {range ?? shortReason(of.reason)} ·
            </span>{' '}
            <span className="nowrap">{[t('estimate.n', { n: of.n }), ...shortCautions(of)].join(' · ')}</span>
          </>
        )}
      </span>
    </span>
  )
}
