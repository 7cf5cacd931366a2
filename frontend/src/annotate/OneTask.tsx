/** A single task that a page hands out: practice, an example of a qualification, a turn of a chat. */
import { useMutation } from '@tanstack/react-query'
import { type ReactNode, useCallback, useRef, useState } from 'react'
import { AnswerBar } from 'src/annotate/AnswerBar'
import { useDrafts } from 'src/annotate/drafts'
import { GuidelineDrawer } from 'src/annotate/GuidelineDrawer'
import { FlagDialog, SkipDialog } from 'src/annotate/ReasonDialogs'
import styles from 'src/annotate/Task.module.css'
import { alone, type TaskHandle, TaskView } from 'src/annotate/TaskView'
import { useActiveTime } from 'src/annotate/useActiveTime'
import { useAnswer } from 'src/annotate/useAnswer'
import { useReading } from 'src/annotate/useReading'
import { uuid } from 'src/api/client'
import { flagTask, sendVote, skipTask } from 'src/api/queries'
import type { Receipt, Task } from 'src/api/schema'
import { type AnswerBody, bodyOf, type Draft } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'
import { KeySheet } from 'src/ui/keys/KeySheet'
import { type Handlers, useKeys } from 'src/ui/keys/useKeys'
import { errorMessage } from 'src/ui/widgets/States'

const GUARD_MS = 250

type OneTaskProps = {
  slug: string
  task: Task
  number: number
  /** Beside the panes: what comes of it, such as an explanation. */
  aside?: ReactNode
  /** Answered: what is on the screen is only looked at. */
  finished?: boolean
  onVoted: (receipt: Receipt, body: AnswerBody) => void
  /** Skipped or flagged. */
  onLeft: () => void
}

export function OneTask({ slug, task, number, aside, finished = false, onVoted, onLeft }: OneTaskProps) {
  const drafts = useDrafts()
  const [given, setGiven] = useState<Draft | null>(null)
  // What was answered stays to be seen beside its explanation.
  const draft = given ?? drafts.of(task)
  const [layer, setLayer] = useState<'skip' | 'flag' | 'help' | null>(null)
  const [guide, setGuide] = useState(false)
  const aids = useReading(task, draft)
  const [message, setMessage] = useState('')
  const screen = useRef<HTMLDivElement>(null)
  const view = useRef<TaskHandle | null>(null)
  const guardUntil = useRef(0)
  const time = useActiveTime()
  const sent = useRef({ of: '', key: '' })

  const vote = useMutation({
    mutationFn: async (body: AnswerBody) => {
      // The same answer sent again has the same key; another answer is another vote.
      const of = task.assignment + JSON.stringify(body)
      if (sent.current.of !== of) sent.current = { of, key: uuid() }
      return sendVote(task.assignment, sent.current.key, { ...body, active_ms: Math.max(1, time.read()) })
    },
    onSuccess: (receipt, body) => {
      onVoted(receipt, body)
      drafts.drop(task.assignment)
    },
    onError: (error) => {
      setGiven(null)
      setMessage(t('task.notSent', { why: errorMessage(error) }))
    },
  })
  const leave = useMutation({
    mutationFn: (work: () => Promise<void>) => work(),
    onSuccess: () => {
      drafts.drop(task.assignment)
      onLeft()
    },
    onError: (error) => setMessage(t('task.notLeft', { why: errorMessage(error) })),
    onSettled: () => setLayer(null),
  })

  const { restart } = time
  const onShown = useCallback(() => {
    guardUntil.current = performance.now() + GUARD_MS
    restart()
    view.current?.focusHeading()
  }, [restart])
  const onDraft = (changed: Draft) => {
    if (!finished) drafts.change(task.assignment, changed)
  }
  const answer = useAnswer({
    task,
    draft,
    screen,
    ready: () => !finished && !vote.isPending && performance.now() >= guardUntil.current,
    attention: () => ({ ms: time.read(), unread: view.current?.unread() ?? [] }),
    onDraft,
    onGive: (whole) => {
      setGiven(whole)
      vote.mutate(bodyOf(task.form, whole))
    },
    onNext: () => {
      guardUntil.current = performance.now() + GUARD_MS
      view.current?.focusHeading()
    },
    say: setMessage,
  })
  const handlers: Handlers = {
    ...answer.handlers,
    ...aids.handlers,
    skip: finished ? undefined : () => setLayer('skip'),
    flag: finished ? undefined : () => setLayer('flag'),
    guideline: () => setGuide(!guide),
    focusLeft: () => view.current?.focusPane(-1),
    focusRight: () => view.current?.focusPane(1),
    pageDown: () => view.current?.page(1),
    pageUp: () => view.current?.page(-1),
    help: () => setLayer('help'),
  }
  useKeys(answer.scopes, handlers, { guardUntil: () => guardUntil.current })
  return (
    <div className={styles.screen} ref={screen}>
      <div className={styles.stage}>
        <TaskView
          key={task.assignment}
          task={task}
          draft={draft}
          onDraft={onDraft}
          number={number}
          active
          reading={aids.reading}
          handle={view}
          onShown={onShown}
        />
      </div>
      {guide ? <GuidelineDrawer slug={slug} onClose={() => setGuide(false)} /> : aside}
      <AnswerBar
        question={task.question}
        form={task.form}
        size={task.completions.length}
        draft={draft}
        single={alone(task, draft)}
        tieNext={answer.tieNext}
        scopes={answer.scopes()}
        handlers={handlers}
        pressed={{ ...aids.pressed, guideline: guide }}
        message={vote.isPending ? t('save.saving', { n: 1 }) : message}
        onDraft={onDraft}
        onChoose={answer.choose}
        onRank={answer.rank}
        onSubmit={answer.submit}
      />
      {layer === 'skip' && (
        <SkipDialog
          onSkip={(reason) => leave.mutate(() => skipTask(task.assignment, { reason }))}
          onClose={() => setLayer(null)}
        />
      )}
      {layer === 'flag' && (
        <FlagDialog
          onFlag={(kind, note) => leave.mutate(() => flagTask(task.assignment, note ? { kind, note } : { kind }))}
          onClose={() => setLayer(null)}
        />
      )}
      {layer === 'help' && <KeySheet scopes={answer.scopes()} onClose={() => setLayer(null)} />}
    </div>
  )
}
