/** The best accuracy that a model can reach against people who agree this far. */
import type { AccuracyCeiling } from 'src/api/schema'
import { EstimateFigure, Estimates } from 'src/ui/charts/Estimate'
import { fixed } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

export function CeilingFigures({ ceiling: { best, upper, agreement } }: { ceiling: AccuracyCeiling }) {
  return (
    <Estimates>
      <EstimateFigure
        label={t('ceiling.best')}
        estimate={best}
        unit="percent"
        bar
        note={upper.value === null ? undefined : t('ceiling.upper', { upper: fixed(upper.value * 100, 1), n: best.n })}
      />
      <EstimateFigure label={t('ceiling.agreement')} estimate={agreement} unit="percent" bar />
    </Estimates>
  )
}
