/** One comparison on its own layer: prompt and panes. The next one is rendered behind the one on screen. */
import { ChevronDown, ChevronUp } from 'lucide-react'
import { type RefObject, useImperativeHandle, useLayoutEffect, useRef, useState } from 'react'
import { LETTER, Pane, type Side } from 'src/annotate/Pane'
import styles from 'src/annotate/Task.module.css'
import type { Task } from 'src/api/schema'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { RICH_LIMIT, useRenderer } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { Notice } from 'src/ui/widgets/States'

export type TaskHandle = {
  focusPane: (side: Side) => void
  page: (direction: 1 | -1) => void
  focusHeading: () => void
}

type TaskViewProps = {
  task: Task
  number: number
  active: boolean
  source: boolean
  locked: boolean
  handle: RefObject<TaskHandle | null>
  /** Called once this task is what the person sees. */
  onShown: () => void
}

export function TaskView({ task, number, active, source, locked, handle, onShown }: TaskViewProps) {
  const [open, setOpen] = useState(true)
  const [shown, setShown] = useState<Side>('left')
  const [rich, setRich] = useState(false)
  const heading = useRef<HTMLHeadingElement>(null)
  const left = useRef<HTMLDivElement>(null)
  const right = useRef<HTMLDivElement>(null)
  const last = useRef<Side>('left')
  const boxes = { left, right }

  const focusPane = (side: Side) => {
    setShown(side)
    last.current = side
    // After the narrow layout has made the pane visible.
    requestAnimationFrame(() => boxes[side].current?.focus())
  }
  useImperativeHandle(active ? handle : null, () => ({
    focusPane,
    page: (direction) => {
      const sides: Side[] = locked ? ['left', 'right'] : [last.current]
      for (const side of sides) {
        const box = boxes[side].current
        box?.scrollBy({ top: direction * box.clientHeight * 0.85 })
      }
    },
    focusHeading: () => heading.current?.focus({ preventScroll: true }),
  }))
  useLayoutEffect(() => {
    if (active) onShown()
  }, [active, onShown])

  const onScroll = (side: Side) => {
    const from = boxes[side].current
    const to = boxes[side === 'left' ? 'right' : 'left'].current
    // Only the pane under the person's hand leads; the other's own scroll event must not answer back.
    if (!locked || !from || !to || !from.matches(':hover, :focus')) return
    const share = from.scrollTop / Math.max(1, from.scrollHeight - from.clientHeight)
    to.scrollTop = share * (to.scrollHeight - to.clientHeight)
  }

  const renderer = useRenderer()
  const long = Math.max(task.left.length, task.right.length) > RICH_LIMIT
  const mode = source ? 'source' : long && !rich ? 'plain' : 'rich'
  const pane = (side: Side) => (
    <Pane
      side={side}
      text={task[side]}
      mode={mode}
      prefix={`${task.assignment}-${side}-`}
      scroll={boxes[side]}
      chosenBefore={task.choice === side}
      onFocus={() => {
        last.current = side
      }}
      onScroll={() => onScroll(side)}
    />
  )
  const turns = t('task.turns', { n: task.prompt.length })
  return (
    <div
      className={`${styles.layer} ${active ? '' : styles.behind}`}
      inert={!active}
      aria-hidden={!active || undefined}
    >
      <section className={styles.prompt} aria-label={t('task.prompt')}>
        <div className={styles.promptHeader}>
          <h1 ref={heading} tabIndex={-1}>
            {t('task.heading', { number })}
          </h1>
          {open ? (
            <>
              <span>{turns}</span>
              <span className={styles.spacer} />
            </>
          ) : (
            <span className={styles.oneLine}>{promptLine(task.prompt, 240)}</span>
          )}
          <Button look="quiet" small aria-expanded={open} onClick={() => setOpen(!open)}>
            {open ? t('task.collapse') : t('task.expand')}
            {open ? <ChevronUp size={16} aria-hidden="true" /> : <ChevronDown size={16} aria-hidden="true" />}
          </Button>
        </div>
        {open && (
          // biome-ignore lint/a11y/useSemanticElements: a scrolling group inside the named section.
          <div className={styles.promptBody} role="group" aria-label={t('task.prompt')} tabIndex={0}>
            <Conversation turns={task.prompt} prefix={`${task.assignment}-p`} source={source} />
          </div>
        )}
      </section>
      <div className={styles.paneTabs}>
        {(['left', 'right'] as const).map((side) => (
          <button
            key={side}
            type="button"
            className={`${styles.paneTab} ${styles[side]}`}
            aria-pressed={shown === side}
            onClick={() => setShown(side)}
          >
            {t('task.response', { letter: LETTER[side] })}
          </button>
        ))}
      </div>
      <div className={styles.panes} data-shown={shown}>
        {pane('left')}
        {pane('right')}
      </div>
      {renderer.kind === 'failed' && <Notice>{t('task.plainOnly')}</Notice>}
      {long && !rich && (
        <Notice
          action={
            <Button small onClick={() => setRich(true)}>
              {t('task.renderAnyway')}
            </Button>
          }
        >
          {t('task.longText')}
        </Notice>
      )}
    </div>
  )
}
