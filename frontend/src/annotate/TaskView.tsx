/** One comparison on its own layer: prompt and panes. The next one is rendered behind the one on screen. */
import { ChevronDown, ChevronUp } from 'lucide-react'
import {
  createRef,
  type ReactNode,
  type RefObject,
  useImperativeHandle,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from 'react'
import { Pane } from 'src/annotate/Pane'
import type { Unread } from 'src/annotate/readingRules'
import styles from 'src/annotate/Task.module.css'
import type { Reading } from 'src/annotate/useReading'
import type { Task } from 'src/api/schema'
import { type Draft, letterOf, lettersOf, placeAt, placeOf } from 'src/ui/answer/answer'
import { answerRow, ratingRows, readRow } from 'src/ui/answer/fields'
import { Rows } from 'src/ui/answer/Rows'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { Markdown, Marked, useRenderer } from 'src/ui/content/Markdown'
import { DifferencesNotice, useDifferences } from 'src/ui/content/useDifferences'
import { FormattingNotice, useFormatting } from 'src/ui/content/useFormatting'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'

export type TaskHandle = {
  /** The pane before or after the one last at hand; of two, the left and the right one. */
  focusPane: (direction: 1 | -1) => void
  page: (direction: 1 | -1) => void
  focusHeading: () => void
  /** Of the responses to be read now, those whose end was not on the screen yet. */
  unread: () => Unread[]
}

type TaskViewProps = {
  task: Task
  draft: Draft
  onDraft: (draft: Draft) => void
  number: number
  active: boolean
  reading: Reading
  handle: RefObject<TaskHandle | null>
  /** Called once this task is what the person sees. */
  onShown: () => void
}

/** The completion that is read alone now, or null once all are compared. */
export function alone(task: Pick<Task, 'form' | 'completions'>, draft: Draft): number | null {
  return task.form.read_first && draft.read < task.completions.length ? draft.read : null
}

export function TaskView(props: TaskViewProps) {
  const { task, draft, number, active, reading, handle, onShown } = props
  const { form, completions } = task
  const size = completions.length
  const [open, setOpen] = useState(true)
  const [shown, setShown] = useState(0)
  const heading = useRef<HTMLHeadingElement>(null)
  const [boxes] = useState(() => completions.map(() => createRef<HTMLDivElement>()))
  const last = useRef(0)
  const leader = useRef(0)
  const seen = useRef(new Set<number>())
  const [onEnd] = useState(() => completions.map((_, index) => () => seen.current.add(index)))
  const single = alone(task, draft)
  const visible = single === null ? completions.map((_, index) => index) : [single]
  const pair = size === 2 && (form.kind === 'choice' || form.kind === 'scale')

  const focusPane = (direction: 1 | -1) => {
    const index = size === 2 ? (direction < 0 ? 0 : 1) : Math.min(size - 1, Math.max(0, last.current + direction))
    setShown(index)
    last.current = index
    // After the narrow layout has made the pane visible.
    requestAnimationFrame(() => boxes[index]?.current?.focus())
  }
  useImperativeHandle(active ? handle : null, () => ({
    focusPane,
    page: (direction) => {
      let index = single ?? last.current
      // With the scrolling locked the longest text leads, else a short one would hold back the others.
      if (reading.locked) index = longest(boxes)
      leader.current = index
      const box = boxes[index]?.current
      box?.scrollBy({ top: direction * box.clientHeight * 0.85 })
    },
    focusHeading: () => heading.current?.focus({ preventScroll: true }),
    unread: () =>
      visible
        .filter((index) => !seen.current.has(index))
        .map((index) => ({ letter: letterOf(index), hidden: (boxes[index]?.current?.clientHeight ?? 0) === 0 })),
  }))
  useLayoutEffect(() => {
    if (active) onShown()
  }, [active, onShown])

  const onScroll = (index: number) => {
    const from = boxes[index]?.current
    // Only the pane under the person's hand leads; the other's own scroll event must not answer back.
    if (!reading.locked || !from || leader.current !== index) return
    const share = from.scrollTop / Math.max(1, from.scrollHeight - from.clientHeight)
    for (const { current: to } of boxes) {
      if (to && to !== from) to.scrollTop = share * (to.scrollHeight - to.clientHeight)
    }
  }

  const renderer = useRenderer()
  const formatting = useFormatting(completions)
  const conversation = useMemo(() => [task.prompt.map(({ content }) => content).join('\n\n')], [task.prompt])
  const promptFormatting = useFormatting(conversation)
  const mode = reading.source ? 'source' : formatting.mode
  const found = useDifferences(completions, reading.differences)
  const letters = lettersOf(size)
  const pane = (index: number) => {
    const letter = letterOf(index)
    const side = pair ? (index === 0 ? 'left' : 'right') : null
    const prefix = `${task.assignment}-${letter}-`
    return (
      <Pane
        key={letter}
        letter={letter}
        side={side}
        scroll={boxes[index] ?? createRef<HTMLDivElement>()}
        note={note(props, letter, side)}
        footer={footer(props, letter)}
        onFocus={() => {
          last.current = index
          leader.current = index
        }}
        onLead={() => {
          leader.current = index
        }}
        onScroll={() => onScroll(index)}
        // Not before the text has the form, and the length, that it is read in.
        onEnd={task.read_to_end && active && renderer.kind !== 'loading' ? onEnd[index] : undefined}
      >
        {found ? (
          <Marked parts={index === 0 ? found.left : found.right} />
        ) : (
          <Markdown text={completions[index] ?? ''} prefix={prefix} mode={mode} onBroken={formatting.onBroken} />
        )}
      </Pane>
    )
  }
  // The responses answer the last message; what came before is above it.
  const said = useRef<HTMLDivElement>(null)
  // biome-ignore lint/correctness/useExhaustiveDependencies: what changes the heights of the messages is here too.
  useLayoutEffect(() => {
    const last = said.current?.firstElementChild?.lastElementChild
    if (!open || !said.current || !last || task.prompt.length < 2) return
    said.current.scrollTop += last.getBoundingClientRect().top - said.current.getBoundingClientRect().top
  }, [open, renderer.kind, reading.source, task.prompt])
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
          <div ref={said} className={styles.promptBody} role="group" aria-label={t('task.prompt')} tabIndex={0}>
            <Conversation
              turns={task.prompt}
              prefix={`${task.assignment}-p`}
              mode={reading.source ? 'source' : promptFormatting.mode}
            />
          </div>
        )}
      </section>
      {visible.length > 1 && (
        <div className={styles.paneTabs}>
          {letters.map((letter, index) => (
            <button
              key={letter}
              type="button"
              className={`${styles.paneTab} ${pair ? styles[index === 0 ? 'left' : 'right'] : ''}`}
              aria-pressed={shown === index}
              aria-label={t('task.response', { letter })}
              onClick={() => setShown(index)}
            >
              {size > 2 ? letter : t('task.response', { letter })}
            </button>
          ))}
        </div>
      )}
      <div
        className={`${styles.panes} ${size > 2 ? styles.snap : ''}`}
        data-count={visible.length}
        data-shown={visible.length > 1 ? shown + 1 : undefined}
      >
        {visible.map(pane)}
      </div>
      {!reading.source && !reading.differences && (
        <FormattingNotice of={formatting.reason === null ? promptFormatting : formatting} />
      )}
      {reading.differences && <DifferencesNotice found={found} />}
    </div>
  )
}

/** The pane that has the most to scroll. */
function longest(boxes: RefObject<HTMLDivElement | null>[]): number {
  const room = boxes.map(({ current }) => (current ? current.scrollHeight - current.clientHeight : 0))
  return room.indexOf(Math.max(...room))
}

/** Rows below a text: its rating alone, or its criteria. */
function footer({ task, draft, onDraft }: TaskViewProps, letter: string): ReactNode {
  const { form } = task
  const rows =
    alone(task, draft) !== null
      ? [readRow(form, draft, letter)]
      : form.kind === 'rating'
        ? ratingRows(form, draft, letter)
        : []
  if (rows.length === 0) return null
  return <Rows rows={rows} onAnswer={(field, value) => onDraft(answerRow(form, draft, field, value))} />
}

function note({ task, draft, onDraft }: TaskViewProps, letter: string, side: 'left' | 'right' | null): ReactNode {
  const { form, answer } = task
  const rating = form.read_first ? draft.first_ratings[letter] : undefined
  const compared = alone(task, draft) === null
  return (
    <>
      {side !== null && answer?.choice === side && <span className={styles.earlier}>{t('task.chosenBefore')}</span>}
      {compared && rating !== undefined && (
        <span className="muted">{t('rating.yours', { rating, points: form.read_points })}</span>
      )}
      {compared && form.kind === 'ranking' && (
        <select
          className={styles.rankSelect}
          aria-label={t('rank.placeOf', { letter })}
          value={placeOf(draft.ranking, letter)}
          onChange={(event) =>
            onDraft({
              ...draft,
              ranking: placeAt(draft.ranking, letter, Number(event.target.value), form.allow_tie),
            })
          }
        >
          <option value={0}>{t('rank.noPlace')}</option>
          {task.completions.map((_, index) => (
            <option key={letterOf(index)} value={index + 1}>
              {t('rank.nth', { place: index + 1 })}
            </option>
          ))}
        </select>
      )}
    </>
  )
}
