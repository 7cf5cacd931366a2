/** Text of models and people. The renderer follows in its own chunk; until it is here, and if it never comes, every text on
 * the page is plain, so that no side of a comparison looks better than the other. */
import { type ComponentType, memo, useSyncExternalStore } from 'react'
import styles from 'src/ui/content/Content.module.css'

/** Over this length on either side of a comparison, both sides are shown plain. */
export const RICH_LIMIT = 20_000

const OVERRIDES = /[\u202a-\u202e\u2066-\u2069]/g

/** Marks that turn the direction of text can make a command read as another: they are shown, not obeyed. */
export function showOverrides(text: string): string {
  return text.replace(OVERRIDES, (mark) => `[U+${mark.charCodeAt(0).toString(16).toUpperCase()}]`)
}

type Renderer =
  | { kind: 'loading' }
  | { kind: 'ready'; Rich: ComponentType<{ text: string; prefix: string }> }
  | { kind: 'failed' }

let renderer: Renderer = { kind: 'loading' }
const listeners = new Set<() => void>()

function settle(next: Renderer): void {
  renderer = next
  for (const listener of listeners) listener()
}

import('src/ui/content/Rich').then(
  ({ Rich }) => settle({ kind: 'ready', Rich }),
  () => settle({ kind: 'failed' }),
)

export function useRenderer(): Renderer {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    () => renderer,
  )
}

type MarkdownProps = {
  text: string /** Keeps the ids of two panes apart. */
  prefix: string
  mode?: 'rich' | 'plain' | 'source'
}

export const Markdown = memo(function Markdown({ text, prefix, mode = 'rich' }: MarkdownProps) {
  const renderer = useRenderer()
  const shown = showOverrides(text)
  if (mode === 'rich' && renderer.kind === 'ready') return <renderer.Rich text={shown} prefix={prefix} />
  return (
    <div className={mode === 'source' ? styles.source : `${styles.text} ${styles.plain}`} dir="auto">
      {shown}
    </div>
  )
})
