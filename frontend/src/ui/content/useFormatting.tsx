/** One way of showing for all texts of a comparison: what one of them cannot have, the others do without. */
import { useCallback, useMemo, useState } from 'react'
import { useRenderer } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { Notice } from 'src/ui/widgets/States'

/** 500 formulas took two seconds. */
const LENGTH_LIMIT = 20_000
const FORMULA_LIMIT = 200

export type Formatting = {
  mode: 'rich' | 'plain'
  reason: 'failed' | 'long' | null
  /** Whatever it takes. */
  render: () => void
  /** One of the texts could not be rendered. */
  onBroken: () => void
}

export function useFormatting(texts: readonly string[]): Formatting {
  const renderer = useRenderer()
  const [anyway, setAnyway] = useState(false)
  const [broken, setBroken] = useState(false)
  const long = useMemo(
    () =>
      texts.some((text) => text.length > LENGTH_LIMIT) ||
      (renderer.kind === 'ready' && texts.some((text) => renderer.countFormulas(text) > FORMULA_LIMIT)),
    [texts, renderer],
  )
  const reason = renderer.kind === 'failed' || broken ? 'failed' : long && !anyway ? 'long' : null
  const onBroken = useCallback(() => setBroken(true), [])
  return { mode: reason === null ? 'rich' : 'plain', reason, render: () => setAnyway(true), onBroken }
}

/** Why texts are plain, and what to do about it. */
export function FormattingNotice({ of }: { of: Formatting }) {
  if (of.reason === null) return null
  if (of.reason === 'failed') return <Notice>{t('task.plainOnly')}</Notice>
  return (
    <Notice
      action={
        <Button small onClick={of.render}>
          {t('task.renderAnyway')}
        </Button>
      }
    >
      {t('task.longText')}
    </Notice>
  )
}
