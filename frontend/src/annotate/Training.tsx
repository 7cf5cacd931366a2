/** Practice, explained after each answer; and the examples of a qualification, with their score at the end. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { GraduationCap } from 'lucide-react'
import { useEffect, useState } from 'react'
import { Disagree } from 'src/annotate/Disagree'
import { OneTask } from 'src/annotate/OneTask'
import styles from 'src/annotate/Start.module.css'
import taskStyles from 'src/annotate/Task.module.css'
import { tabId } from 'src/annotate/tabId'
import { explanationOf, nextExample, nextPractice, standingQuery } from 'src/api/annotator'
import { ApiError } from 'src/api/errors'
import { keys } from 'src/api/queries'
import type { Attempt, Explanation, Task } from 'src/api/schema'
import { answerText, rankingText } from 'src/ui/answer/answer'
import { Markdown } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { HeaderSlot } from 'src/ui/widgets/HeaderSlot'
import { Empty, ErrorPanel, Notice } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

export function Practice() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [told, setTold] = useState<(Explanation & { vote: string }) | null>(null)
  const given = useGiven(slug, async (tab) => ({ task: (await nextPractice(slug, tab)).task, attempt: null }))
  const explain = useMutation({
    mutationFn: async ({ assignment, vote }: { assignment: string; vote: string }) => ({
      ...(await explanationOf(slug, assignment)),
      vote,
    }),
    onSuccess: setTold,
    onError: () => given.next(),
  })
  const { task } = given
  return (
    <Shown slug={slug} given={given} over={t('training.practiceOver')} label={t('start.practice')}>
      {task && (
        <OneTask
          key={task.assignment}
          slug={slug}
          task={task}
          number={given.number}
          finished={explain.isPending || told !== null}
          onVoted={({ vote }) => explain.mutate({ assignment: task.assignment, vote })}
          onLeft={given.next}
          aside={
            told && (
              <Told
                slug={slug}
                task={task}
                told={told}
                onNext={() => {
                  setTold(null)
                  given.next()
                }}
              />
            )
          }
        />
      )}
    </Shown>
  )
}

export function Qualification() {
  const { slug = '' } = useParams<{ slug: string }>()
  const given = useGiven(slug, (tab) => nextExample(slug, tab).catch(closed))
  const { task } = given
  // The last answer closes the attempt, so its score is read from where the person stands.
  const attempt = useQuery({ ...standingQuery(slug), enabled: given.over }).data?.attempt
  return (
    <Shown
      slug={slug}
      given={given}
      over={attempt ? score(attempt) : t('training.qualificationOver')}
      label={t('start.qualification')}
    >
      {task && (
        <OneTask
          key={task.assignment}
          slug={slug}
          task={task}
          number={given.number}
          onVoted={given.next}
          onLeft={given.next}
        />
      )}
    </Shown>
  )
}

/** No attempt is open any more: there is no next task. */
function closed(error: unknown): Step {
  if (error instanceof ApiError && error.code === 'not_now') return { task: null, attempt: null }
  throw error
}

function score({ right, items, passed }: Attempt): string {
  return passed ? t('start.passed', { right: right ?? 0, items }) : t('start.notPassed', { right: right ?? 0, items })
}

type Step = { task: Task | null; attempt: Attempt | null }
type Given = Step & { number: number; over: boolean; error: unknown; next: () => void }

/** Tasks that the server hands out one by one, until there are no more. */
function useGiven(slug: string, take: (tab: string) => Promise<Step>): Given {
  const client = useQueryClient()
  const [step, setStep] = useState<Step | null>(null)
  const [number, setNumber] = useState(0)
  const ask = useMutation({
    mutationFn: async () => take(await tabId()),
    onSuccess: (found) => {
      setStep(found)
      setNumber((before) => before + 1)
      if (found.task === null) void client.invalidateQueries({ queryKey: [...keys.work, slug] })
    },
  })
  const { mutate } = ask
  useEffect(() => mutate(), [mutate])
  return {
    task: step?.task ?? null,
    attempt: step?.attempt ?? null,
    number,
    over: step !== null && step.task === null,
    error: ask.error,
    next: () => mutate(),
  }
}

type ShownProps = { slug: string; given: Given; label: string; over: string; children: React.ReactNode }

function Shown({ slug, given, label, over, children }: ShownProps) {
  if (given.error !== null) {
    return (
      <div className={taskStyles.screen}>
        <div className={taskStyles.center}>
          <div className={taskStyles.centerBox}>
            <ErrorPanel page what={t('task.queueFailed')} error={given.error} retry={given.next} />
            <LinkButton href={`/p/${slug}/start`}>{t('training.back')}</LinkButton>
          </div>
        </div>
      </div>
    )
  }
  if (given.over) {
    return (
      <div className={taskStyles.screen}>
        <div className={taskStyles.center}>
          <Empty
            page
            icon={GraduationCap}
            title={over}
            action={
              <LinkButton look="primary" href={`/p/${slug}/start`}>
                {t('training.goOn')}
              </LinkButton>
            }
          />
        </div>
      </div>
    )
  }
  const items = given.attempt?.items
  return (
    <>
      <HeaderSlot>
        <span className={taskStyles.progress}>
          {label}
          {items !== undefined && ` · ${t('task.of', { done: given.number, total: items })}`}
        </span>
      </HeaderSlot>
      {children}
    </>
  )
}

type ToldProps = { slug: string; task: Task; told: Explanation & { vote: string }; onNext: () => void }

function Told({ slug, task, told, onNext }: ToldProps) {
  const { worst, ...right } = told.right
  return (
    <aside className={styles.explanation} aria-label={t('training.explanation')}>
      <Notice tone={told.is_right ? 'ok' : 'warn'} role="status">
        {told.is_right ? t('training.right') : t('training.wrong')}
      </Notice>
      <p>{t('training.yours', { answer: answerText(task.form, told.yours) })}</p>
      <p>
        {t('training.answer', {
          answer: worst
            ? t('training.worst', { letter: worst })
            : right.ranking
              ? rankingText(right.ranking)
              : answerText(task.form, right),
        })}
      </p>
      {told.text && <Markdown text={told.text} prefix="explanation-" />}
      <Button look="primary" autoFocus onClick={onNext}>
        {t('task.goOn')}
      </Button>
      {!told.is_right && <Disagree slug={slug} vote={told.vote} />}
    </aside>
  )
}
