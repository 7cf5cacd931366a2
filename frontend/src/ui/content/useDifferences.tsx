/** Two texts with what only one of them has marked, and a sentence on what the marks mean. */
import { useMemo } from 'react'
import type { Differences } from 'src/ui/content/diff'
import { useRenderer } from 'src/ui/content/Markdown'
import { type Key, t } from 'src/ui/i18n/t'
import { Notice } from 'src/ui/widgets/States'

/** Null where they are not asked for, or cannot be had. */
export function useDifferences(texts: readonly string[], wanted: boolean): Differences | null {
  const renderer = useRenderer()
  return useMemo(
    () => (wanted && renderer.kind === 'ready' ? renderer.differences(texts[0] ?? '', texts[1] ?? '') : null),
    [wanted, renderer, texts],
  )
}

/** For differences that were asked for. */
export function DifferencesNotice({ found }: { found: Differences | null }) {
  return useRenderer().kind === 'loading' ? null : <Notice role="status">{t(noteOn(found))}</Notice>
}

function noteOn(found: Differences | null): Key {
  if (!found) return 'task.differencesFailed'
  if (found.by === 'nothing') return 'task.tooDifferent'
  if (found.by === 'sentence') return 'task.markedSentences'
  return [...found.left, ...found.right].some(({ own }) => own) ? 'task.marked' : 'task.same'
}
