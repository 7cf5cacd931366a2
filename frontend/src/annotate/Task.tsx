/** The annotator's page: one task after the other, each answered by keys or buttons as its form asks. */
import { useQuery } from '@tanstack/react-query'
import { startTransition, useCallback, useEffect, useRef, useState, useSyncExternalStore } from 'react'
import { AnswerBar } from 'src/annotate/AnswerBar'
import { Done } from 'src/annotate/Done'
import { useDrafts } from 'src/annotate/drafts'
import { GuidelineDrawer } from 'src/annotate/GuidelineDrawer'
import type { Outbox } from 'src/annotate/outbox'
import { outboxOf } from 'src/annotate/outboxStore'
import { FlagDialog, SkipDialog } from 'src/annotate/ReasonDialogs'
import { SaveStatus } from 'src/annotate/SaveStatus'
import styles from 'src/annotate/Task.module.css'
import { alone, type TaskHandle, TaskView } from 'src/annotate/TaskView'
import { tabId } from 'src/annotate/tabId'
import { useActiveTime } from 'src/annotate/useActiveTime'
import { useAnswer } from 'src/annotate/useAnswer'
import { useQueue } from 'src/annotate/useQueue'
import { useReading } from 'src/annotate/useReading'
import { uuid } from 'src/api/client'
import { ApiError } from 'src/api/errors'
import {
  type FlagKind,
  flagTask,
  retractVote,
  type SkipReason,
  sessionQuery,
  skipTask,
  workQuery,
} from 'src/api/queries'
import type { Task, User } from 'src/api/schema'
import { type AnswerBody, answerText, bodyOf, type Draft } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'
import { KeySheet } from 'src/ui/keys/KeySheet'
import { type Handlers, useKeys } from 'src/ui/keys/useKeys'
import { Progress } from 'src/ui/widgets/Bits'
import { HeaderSlot } from 'src/ui/widgets/HeaderSlot'
import { useTitle } from 'src/ui/widgets/Page'
import { ErrorPanel, errorMessage, Skeleton } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

/** A double press answers one task, not two. */
const GUARD_MS = 250
const PRERENDER_AFTER_MS = 60
const MESSAGE_MS = 10_000
const UNDO_DEPTH = 20
/** After so much attention in one sitting a break is proposed, once. */
const BREAK_MINUTES = 50

export default function TaskPage() {
  const { slug = '' } = useParams<{ slug: string }>()
  const user = useQuery(sessionQuery()).data?.user
  const [tab, setTab] = useState<string | null>(null)
  useEffect(() => {
    if (!user) return
    let live = true
    // The queue must know which answers still wait here before it asks for tasks.
    void Promise.all([tabId(), outboxOf(user.id).load()]).then(([name]) => live && setTab(name))
    return () => {
      live = false
    }
  }, [user])
  if (!user || tab === null) return <Waiting />
  return <TaskScreen key={slug} slug={slug} tab={tab} user={user} outbox={outboxOf(user.id)} />
}

function Waiting() {
  return (
    <div className={styles.screen} aria-busy="true">
      <div className={styles.stage}>
        <div className={styles.layer}>
          <div className={styles.ghost}>
            <Skeleton rows={2} />
          </div>
          <div className={styles.panes}>
            <div className={styles.ghost}>
              <Skeleton rows={8} />
            </div>
            <div className={styles.ghost}>
              <Skeleton rows={8} />
            </div>
          </div>
        </div>
      </div>
    </div>
  )
}

type Given = { key: string; task: Task; body: AnswerBody }
type Layer = 'skip' | 'flag' | 'help' | null

function TaskScreen({ slug, tab, user, outbox }: { slug: string; tab: string; user: User; outbox: Outbox }) {
  const sending = useSyncExternalStore(outbox.subscribe, outbox.getState)
  const { state, dispatch, unsent } = useQueue(slug, tab, sending)
  const online = useOnline()
  const project = useQuery(workQuery()).data?.find((entry) => entry.slug === slug)
  const name = project?.name ?? user.projects.find((entry) => entry.slug === slug)?.name ?? ''
  useTitle(name)

  const [layer, setLayer] = useState<Layer>(null)
  const [guide, setGuide] = useState(false)
  const [given, setGiven] = useState<Given[]>([])
  const [undoing, setUndoing] = useState(false)
  const [message, setMessage, saidOf] = useMessage()
  const drafts = useDrafts()
  const screen = useRef<HTMLDivElement>(null)
  const time = useActiveTime()
  const view = useRef<TaskHandle | null>(null)
  const guardUntil = useRef(0)
  const sat = useRef({ ms: 0, told: false })
  const moveFocus = useRef(false)

  const [current, next] = state.tasks
  const votes = state.votes + unsent
  const remaining = Math.max(0, state.remaining - unsent)
  const number = votes + 1

  useEffect(
    () =>
      outbox.onReceipt((entry, receipt) => {
        if (entry.project !== slug) return
        dispatch({ kind: 'counted', votes: receipt.votes, remaining: receipt.remaining })
        if (!receipt.counted) setMessage(t('task.surplus'))
      }),
    [outbox, slug, dispatch, setMessage],
  )

  const { restart } = time
  const onShown = useCallback(() => {
    guardUntil.current = performance.now() + GUARD_MS
    restart()
    if (moveFocus.current) view.current?.focusHeading()
    moveFocus.current = false
  }, [restart])

  const behind = usePrerender(current?.assignment, next?.assignment)

  const give = (task: Task, draft: Draft) => {
    const key = uuid()
    const body = bodyOf(task.form, draft)
    moveFocus.current = true
    setGiven((before) => [...before, { key, task, body }].slice(-UNDO_DEPTH))
    const total = votes + remaining
    const active_ms = Math.max(1, time.read())
    sat.current.ms += active_ms
    void outbox
      .add({
        key,
        project: slug,
        assignment: task.assignment,
        body: { ...body, active_ms },
      })
      .then(() => {
        drafts.drop(task.assignment)
        const saved = t('task.saved', { what: answerText(task.form, body), number, total })
        const tired = sat.current.ms > BREAK_MINUTES * 60_000 && !sat.current.told
        if (tired) sat.current.told = true
        setMessage(tired ? `${saved} ${t('task.break', { n: BREAK_MINUTES })}` : saved, key)
      })
    dispatch({ kind: 'answered', assignment: task.assignment })
  }
  const draft = current ? drafts.of(current) : null
  const aids = useReading(current ?? null, draft)
  const answer = useAnswer({
    task: current ?? null,
    draft,
    screen,
    ready: () => performance.now() >= guardUntil.current,
    attention: () => ({ ms: time.read(), unread: view.current?.unread() ?? [] }),
    onDraft: (changed) => current && drafts.change(current.assignment, changed),
    onGive: (whole) => current && give(current, whole),
    onNext: () => {
      guardUntil.current = performance.now() + GUARD_MS
      view.current?.focusHeading()
    },
    say: setMessage,
  })

  const undo = async () => {
    const last = given.at(-1)
    if (!last || undoing) return
    setUndoing(true)
    try {
      const back = await outbox.withdraw(last.key)
      if (back.kind === 'unknown') {
        setMessage(t('undo.unknown'))
        return
      }
      const task =
        back.kind === 'sent' ? (await retractVote(back.receipt.vote)).task : { ...last.task, answer: last.body }
      if (back.kind === 'sent') {
        dispatch({ kind: 'counted', votes: Math.max(0, state.votes - 1), remaining: state.remaining + 1 })
      }
      moveFocus.current = true
      dispatch({ kind: 'returned', task })
      setGiven((before) => before.filter((entry) => entry.key !== last.key))
      setMessage(t('undo.done'))
    } catch (error) {
      const frozen = error instanceof ApiError && error.code === 'frozen'
      // A vote that can never be taken back must not hide the one before it.
      if (error instanceof ApiError && error.status === 409) {
        setGiven((before) => before.filter((entry) => entry.key !== last.key))
      }
      setMessage(frozen ? t('undo.frozen') : t('undo.failed', { why: errorMessage(error) }))
    } finally {
      setUndoing(false)
    }
  }

  const leave = async (work: (assignment: string) => Promise<void>, said: string) => {
    setLayer(null)
    if (!current) return
    const { assignment } = current
    try {
      await work(assignment)
      moveFocus.current = true
      dispatch({ kind: 'answered', assignment })
      setMessage(said)
    } catch (error) {
      setMessage(t('task.notLeft', { why: errorMessage(error) }))
    }
  }
  const skip = (reason: SkipReason) => void leave((id) => skipTask(id, { reason }), t('task.skipped'))
  const flag = (kind: FlagKind, note: string) =>
    void leave((id) => flagTask(id, note ? { kind, note } : { kind }), t('task.flagged'))

  const canUndo = given.length > 0 && !undoing
  const handlers: Handlers = {
    ...answer.handlers,
    ...aids.handlers,
    undo: canUndo ? () => void undo() : undefined,
    skip: current && (() => setLayer('skip')),
    flag: current && (() => setLayer('flag')),
    guideline: () => setGuide(!guide),
    focusLeft: () => view.current?.focusPane(-1),
    focusRight: () => view.current?.focusPane(1),
    pageDown: () => view.current?.page(1),
    pageUp: () => view.current?.page(-1),
    help: () => setLayer('help'),
  }
  useKeys(answer.scopes, handlers, { guardUntil: () => guardUntil.current })

  const retry = useCallback(() => dispatch({ kind: 'retry' }), [dispatch])
  const header = (
    <HeaderSlot>
      <div className={styles.header}>
        {state.takes > 0 && (
          <span className={styles.progress}>
            <div>
              <Progress label={t('task.progress')} value={votes} max={votes + remaining} />
            </div>
            {t('task.of', { done: votes, total: votes + remaining })}
          </span>
        )}
        <span className={styles.status}>
          <SaveStatus outbox={outbox} state={sending} online={online} />
          <span className={styles.ready}>· {t('task.ready', { n: state.tasks.length })}</span>
        </span>
      </div>
    </HeaderSlot>
  )

  if (!current || !draft) {
    const waits = state.error === null && state.done === null && !state.dry
    return (
      <>
        {header}
        {waits ? (
          <Waiting />
        ) : (
          <div className={styles.screen}>
            {state.error !== null ? (
              <div className={styles.center}>
                <div className={styles.centerBox}>
                  <ErrorPanel
                    page
                    what={online ? t('task.queueFailed') : t('task.offline')}
                    error={state.error}
                    safe={unsent > 0 ? t('task.unsentSafe', { n: unsent }) : t('task.votesSafe')}
                    retry={retry}
                  />
                </div>
              </div>
            ) : (
              <Done
                slug={slug}
                reason={state.done ?? 'held_by_others'}
                votes={votes}
                waiting={unsent}
                canUndo={canUndo}
                onUndo={() => void undo()}
                retry={retry}
              />
            )}
          </div>
        )}
      </>
    )
  }

  const layers = next && behind === next.assignment ? [current, next] : [current]
  return (
    <div className={styles.screen} ref={screen}>
      {header}
      <div className={styles.stage}>
        {layers.map((task, index) => (
          <TaskView
            key={task.assignment}
            task={task}
            draft={index === 0 ? draft : drafts.of(task)}
            onDraft={(changed) => drafts.change(task.assignment, changed)}
            number={number + index}
            active={index === 0}
            reading={index === 0 ? aids.reading : { ...aids.reading, differences: false }}
            handle={view}
            onShown={onShown}
          />
        ))}
      </div>
      {guide && <GuidelineDrawer slug={slug} onClose={() => setGuide(false)} />}
      <AnswerBar
        question={current.question}
        form={current.form}
        size={current.completions.length}
        draft={draft}
        single={alone(current, draft)}
        tieNext={answer.tieNext}
        scopes={answer.scopes()}
        handlers={handlers}
        pressed={{ ...aids.pressed, guideline: guide }}
        message={message || earlier(current)}
        onUndo={canUndo && saidOf !== null && saidOf === given.at(-1)?.key ? () => void undo() : undefined}
        onDraft={(changed) => drafts.change(current.assignment, changed)}
        onChoose={answer.choose}
        onRank={answer.rank}
        onSubmit={answer.submit}
      />
      {layer === 'skip' && <SkipDialog onSkip={skip} onClose={() => setLayer(null)} />}
      {layer === 'flag' && <FlagDialog onFlag={flag} onClose={() => setLayer(null)} />}
      {layer === 'help' && <KeySheet scopes={answer.scopes()} onClose={() => setLayer(null)} />}
    </div>
  )
}

/** What the person said before they took it back. */
function earlier({ form, answer }: Task): string {
  return answer ? t('task.voteAgain', { choice: answerText(form, answer) }) : ''
}

/** The next task may be rendered behind once the swap has been painted; earlier it would steal the frame. */
function usePrerender(current: string | undefined, next: string | undefined): string | null {
  const [behind, setBehind] = useState<string | null>(null)
  // biome-ignore lint/correctness/useExhaustiveDependencies: each swap starts the wait anew.
  useEffect(() => {
    if (!next) return
    const idle = window.requestIdleCallback ?? ((run: () => void) => setTimeout(run, 0))
    const timer = setTimeout(() => idle(() => startTransition(() => setBehind(next))), PRERENDER_AFTER_MS)
    return () => clearTimeout(timer)
  }, [current, next])
  return behind
}

const SILENCE: { text: string; key: string | null } = { text: '', key: null }

/** What is said for a while, and the key of the vote that it tells of. */
function useMessage(): [string, (text: string, key?: string) => void, string | null] {
  const [said, setSaid] = useState(SILENCE)
  useEffect(() => {
    if (!said.text) return
    const timer = setTimeout(() => setSaid(SILENCE), MESSAGE_MS)
    return () => clearTimeout(timer)
  }, [said])
  const say = useCallback((text: string, key: string | null = null) => setSaid({ text, key }), [])
  return [said.text, say, said.key]
}

function useOnline(): boolean {
  return useSyncExternalStore(
    (listener) => {
      window.addEventListener('online', listener)
      window.addEventListener('offline', listener)
      return () => {
        window.removeEventListener('online', listener)
        window.removeEventListener('offline', listener)
      }
    },
    () => navigator.onLine,
  )
}
