/** Text of models and people. The renderer follows in chunks of its own; until they are here, and if they never come, every
 * text on the page is plain, so that no side of a comparison looks better than the other. */
import { Component, memo, type ReactNode, useSyncExternalStore } from 'react'
import styles from 'src/ui/content/Content.module.css'
import type { Part } from 'src/ui/content/diff'
import type { Typeset } from 'src/ui/content/Rich'

const OVERRIDES = /[\u202a-\u202e\u2066-\u2069]/g

/** Marks that turn the direction of text can make a command read as another: they are shown, not obeyed. */
export function showOverrides(text: string): string {
  return text.replace(OVERRIDES, (mark) => `[U+${mark.charCodeAt(0).toString(16).toUpperCase()}]`)
}

type Later = typeof import('src/ui/content/later')
type Renderer = { kind: 'loading' } | ({ kind: 'ready'; typeset: Typeset } & Later) | { kind: 'failed' }

let renderer: Renderer = { kind: 'loading' }
const listeners = new Set<() => void>()

function settle(next: Renderer): void {
  renderer = next
  for (const listener of listeners) listener()
}

Promise.all([import('src/ui/content/later'), import('src/ui/content/typeset')]).then(
  ([later, { typeset }]) => settle({ kind: 'ready', typeset, ...later }),
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

export type Mode = 'rich' | 'plain' | 'source'

type MarkdownProps = {
  text: string
  /** Keeps the ids of two panes apart. */
  prefix: string
  mode?: Mode
  /** Told when the text is too much for the renderer; it is plain then. */
  onBroken?: () => void
}

export const Markdown = memo(function Markdown({ text, prefix, mode = 'rich', onBroken }: MarkdownProps) {
  const renderer = useRenderer()
  const shown = showOverrides(text)
  const plain = (
    <div className={mode === 'source' ? styles.source : `${styles.text} ${styles.plain}`} dir="auto">
      {shown}
    </div>
  )
  if (mode !== 'rich' || renderer.kind !== 'ready') return plain
  return (
    <PlainIfBroken plain={plain} onBroken={onBroken}>
      <renderer.Rich text={shown} prefix={prefix} typeset={renderer.typeset} />
    </PlainIfBroken>
  )
})

type PlainIfBrokenProps = { plain: ReactNode; onBroken?: () => void; children: ReactNode }

/** A thousand quotes in each other are more than a stack holds; the page must outlive it. */
class PlainIfBroken extends Component<PlainIfBrokenProps, { broken: boolean }> {
  override state = { broken: false }

  static getDerivedStateFromError() {
    return { broken: true }
  }

  override componentDidCatch() {
    this.props.onBroken?.()
  }

  override render() {
    return this.state.broken ? this.props.plain : this.props.children
  }
}

/** A text as it was written, with what the other one lacks marked. */
export function Marked({ parts }: { parts: Part[] }) {
  return (
    <div className={`${styles.text} ${styles.plain}`} dir="auto">
      {parts.map(({ text, own }, index) => {
        const shown = showOverrides(text)
        // biome-ignore lint/suspicious/noArrayIndexKey: the parts of a text never move.
        return own ? <ins key={index}>{shown}</ins> : shown
      })}
    </div>
  )
}
