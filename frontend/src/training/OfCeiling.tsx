/** How much of the human ceiling a held-out accuracy reaches, wherever one is shown. */
import type { Ceilings } from 'src/api/schema'
import { measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

type Props = { name: string; value: number | undefined; of: Ceilings | null | undefined }

/** Of accuracy against single votes only: against aggregated labels there is no such ceiling. */
export function OfCeiling({ name, value, of }: Props) {
  const [group, last] = name.split('/')
  if (last !== 'vote_accuracy' || value === undefined || !of) return null
  const { ceiling, upper } = group === 'test' ? of.test : of.validation
  if (ceiling.value === null || upper.value === null) return null
  const share = Math.round((value / ceiling.value) * 100)
  return (
    <div
      className="muted small"
      title={t('run.ceilingWhy', { ceiling: measured(ceiling.value), upper: measured(upper.value) })}
    >
      {t('run.ofCeiling', { share, ceiling: measured(ceiling.value) })}
    </div>
  )
}
