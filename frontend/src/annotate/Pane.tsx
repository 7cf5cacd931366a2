/** One response: its letter, its text, its own scroll. Nothing but the text may differ between them. */
import { ArrowDown } from 'lucide-react'
import { type ReactNode, type RefObject, useEffect, useRef, useState } from 'react'
import styles from 'src/annotate/Task.module.css'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'

type PaneProps = {
  letter: string
  /** Two that are compared have a colour each; more have letters only. */
  side: 'left' | 'right' | null
  scroll: RefObject<HTMLDivElement | null>
  /** Beside the heading: an earlier choice, a rating, a place. */
  note?: ReactNode
  footer?: ReactNode
  /** The text. */
  children: ReactNode
  onFocus: () => void
  /** The person's hand is on it: with the scrolling locked, the others follow this one. */
  onLead: () => void
  onScroll: () => void
  /** Told when the end of the text is on the screen; not watched without it. */
  onEnd?: () => void
}

export function Pane({ letter, side, scroll, note, footer, children, onFocus, onLead, onScroll, onEnd }: PaneProps) {
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
  const end = useRef<HTMLSpanElement>(null)
  useEffect(() => {
    if (!onEnd || !end.current) return
    const observer = new IntersectionObserver((seen) => seen.some(({ isIntersecting }) => isIntersecting) && onEnd())
    observer.observe(end.current)
    return () => observer.disconnect()
  }, [onEnd])
  const name = t('task.response', { letter })
  return (
    <section className={`${styles.pane} ${side ? styles[side] : ''}`} aria-label={name} data-letter={letter}>
      <div className={styles.paneHeader}>
        <span className={styles.letter} aria-hidden="true">
          {letter}
        </span>
        <h2>{name}</h2>
        {note && <span className={styles.note}>{note}</span>}
      </div>
      <div className={styles.textBox}>
        {/* biome-ignore lint/a11y/useSemanticElements: a scrolling group inside the named section. */}
        <div
          ref={scroll}
          className={styles.text}
          role="group"
          aria-label={t('task.responseText', { letter })}
          tabIndex={0}
          onFocus={onFocus}
          onPointerDown={onLead}
          onWheel={onLead}
          onScroll={onScroll}
        >
          <div>
            {children}
            <span ref={end} className={styles.end} aria-hidden="true" />
          </div>
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
      </div>
      {footer && <div className={styles.paneFooter}>{footer}</div>}
    </section>
  )
}
