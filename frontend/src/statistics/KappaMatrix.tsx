/** Cohen's kappa of every two annotators as a heat map. */
import { useMemo } from 'react'
import type { MatrixReport } from 'src/api/schema'
import { type HeatCell, HeatMap } from 'src/ui/charts/HeatMap'
import { DASH, fixed, interval, reasonText } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

/** So many standard errors to either side hold 95 % of a normal distribution. */
const Z = 1.96

export function kappaCells({ people, kappa, se, n_common, reason }: MatrixReport): (HeatCell | null)[][] {
  return people.map((_, row) =>
    people.map((_, column) => {
      if (row === column) return null
      const value = kappa[row]?.[column] ?? null
      const error = se[row]?.[column] ?? null
      const n = n_common[row]?.[column] ?? 0
      if (n === 0) return { shade: null, text: DASH, detail: t('matrix.nothingShared') }
      if (value === null) {
        const why = t('estimate.undefined', { reason: reasonText(reason[row]?.[column] ?? null) })
        return { shade: null, text: DASH, detail: `${why} ${t('matrix.common', { n })}` }
      }
      const range =
        error === null
          ? ''
          : ` ${interval(fixed(Math.max(-1, value - Z * error)), fixed(Math.min(1, value + Z * error)))}`
      return {
        shade: value,
        text: fixed(value),
        detail: `${t('matrix.kappa', { value: fixed(value) })}${range}, ${t('matrix.common', { n })}`,
      }
    }),
  )
}

export function KappaMatrix({ report }: { report: MatrixReport }) {
  const cells = useMemo(() => kappaCells(report), [report])
  const names = report.people.map(({ name, pseudonym }) => name || pseudonym)
  const left = report.total_people - names.length
  return (
    <>
      <HeatMap
        caption={t('matrix.title')}
        corner={t('behind.annotator')}
        rows={names}
        columns={names}
        cells={cells}
        ends={{ low: '−1', middle: '0', high: '1' }}
        hint={t('matrix.hint', { n: report.min_common })}
      />
      {left > 0 && <p className="muted small">{t('matrix.left', { n: left })}</p>}
    </>
  )
}
