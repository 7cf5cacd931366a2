/** Why there is no figure, and what to know about those that there are, each said once. */
import { cautionText, reasonText } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Notice } from 'src/ui/widgets/States'

type Doubtful = { reason?: string | null; warnings?: readonly string[] } | null

export function Doubts({ of }: { of: readonly Doubtful[] }) {
  const reasons = of
    .flatMap((one) => one?.reason ?? [])
    .map((code) => t('estimate.undefined', { reason: reasonText(code) }))
  const cautions = of.flatMap((one) => one?.warnings ?? []).map(cautionText)
  return [...new Set([...reasons, ...cautions])].map((words) => (
    <Notice key={words} tone="warn">
      {words}
    </Notice>
  ))
}
