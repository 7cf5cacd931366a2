/** How often each system won against each other one, as a heat map. */
import { useMemo } from 'react'
import type { RankingReport } from 'src/api/schema'
import { type HeatCell, HeatMap } from 'src/ui/charts/HeatMap'
import { DASH, fixed, interval, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

export function winCells({ systems, win_rates: { rate, low, high, n, model } }: RankingReport): (HeatCell | null)[][] {
  return systems.map((_, row) =>
    systems.map((_, column) => {
      if (row === column) return null
      const value = rate[row]?.[column] ?? null
      const expected = model[row]?.[column] ?? null
      const tail = expected === null ? '' : ` ${t('winRates.model', { rate: percent(expected) })}`
      if (value === null) return { shade: null, text: DASH, detail: `${t('winRates.never')}${tail}` }
      const from = low[row]?.[column] ?? null
      const to = high[row]?.[column] ?? null
      const range = from === null || to === null ? '' : ` ${interval(fixed(from * 100, 0), fixed(to * 100, 0))}`
      return {
        shade: value * 2 - 1,
        text: fixed(value * 100, 0),
        detail: `${percent(value)}${range}, ${t('estimate.n', { n: n[row]?.[column] ?? 0 })}.${tail}`,
      }
    }),
  )
}

export function WinRates({ report }: { report: RankingReport }) {
  const cells = useMemo(() => winCells(report), [report])
  const names = report.systems.map(({ name }) => name)
  return (
    <HeatMap
      caption={t('winRates.title')}
      corner={t('winRates.corner')}
      rows={names}
      columns={names}
      cells={cells}
      ends={{ low: '0 %', middle: '50 %', high: '100 %' }}
      hint={t('winRates.hint')}
    />
  )
}
