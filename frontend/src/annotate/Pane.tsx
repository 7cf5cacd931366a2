/** One response: its letter, its text, its own scroll. Nothing but the text may differ between the two. */
import { ArrowDown } from 'lucide-react'
import { type RefObject, useEffect, useState } from 'react'
import styles from 'src/annotate/Task.module.css'
import { Markdown } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'

export type Side = 'left' | 'right'
export const LETTER = { left: 'A', right: 'B' } as const

type PaneProps = {
  side: Side
  text: string
  mode: 'rich' | 'plain' | 'source'
  prefix: string
  scroll: RefObject<HTMLDivElement | null>
  chosenBefore: boolean
  onFocus: () => void
  onScroll: () => void
}

export function Pane({ side, text, mode, prefix, scroll, chosenBefore, onFocus, onScroll }: PaneProps) {
  const [below, setBelow] = useState(false)
  useEffect(() => {
    const box = scroll.current
    if (!box) return
    const look = () => setBelow(box.scrollHeight - box.scrollTop - box.clientHeight > 24)
    look()
    const observer = new ResizeObserver(look)
    observer.observe(box)
    if (box.firstElementChild) observer.observe(box.firstElementChild)
    box.addEventListener('scroll', look, { passive: true })
    return () => {
      observer.disconnect()
      box.removeEventListener('scroll', look)
    }
  }, [scroll])
  const name = t('task.response', { letter: LETTER[side] })
  return (
    <section className={`${styles.pane} ${styles[side]}`} aria-label={name}>
      <div className={styles.paneHeader}>
        <span className={styles.letter} aria-hidden="true">
          {LETTER[side]}
        </span>
        <h2>{name}</h2>
        {chosenBefore && <span className={styles.earlier}>{t('task.chosenBefore')}</span>}
      </div>
      {/* biome-ignore lint/a11y/useSemanticElements: a scrolling group inside the named section. */}
      <div
        ref={scroll}
        className={styles.text}
        role="group"
        aria-label={t('task.responseText', { letter: LETTER[side] })}
        tabIndex={0}
        onFocus={onFocus}
        onScroll={onScroll}
      >
        <Markdown text={text} prefix={prefix} mode={mode} />
      </div>
      {below && (
        <div className={styles.below}>
          <Button
            small
            tabIndex={-1}
            onClick={() => scroll.current?.scrollBy({ top: scroll.current.clientHeight * 0.85 })}
          >
            <ArrowDown size={14} aria-hidden="true" />
            {t('task.moreBelow')}
          </Button>
        </div>
      )}
    </section>
  )
}
