/** What policies write for one question, a column each, and where it goes from there. */
import { CornerDownRight, Send, Square } from 'lucide-react'
import { sendQuestion, stopQuestion } from 'src/api/playgroundApi'
import type { PlaygroundAnswer, PlaygroundDetail } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/training/Playground.module.css'
import { type Draft, goneOn } from 'src/training/playgroundDraft'
import { Markdown } from 'src/ui/content/Markdown'
import { measured } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Badge, type Tone } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { Card, Row } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const TONES: Record<PlaygroundAnswer['state'], Tone> = {
  waiting: 'plain',
  writing: 'live',
  done: 'ok',
  stopped: 'warn',
  failed: 'error',
}

type AnswersProps = { slug: string; question: PlaygroundDetail; canManage: boolean; onGoOn: (draft: Draft) => void }

export function PlaygroundAnswers({ slug, question, canManage, onGoOn }: AnswersProps) {
  const stop = useWrite(slug, () => stopQuestion(slug, question.id))
  const send = useWrite(slug, () => sendQuestion(slug, question.id))
  const isOver = question.stage === 'over'
  const done = question.answers.filter((answer) => answer.state === 'done')
  const differ = new Set(done.map(({ text }) => text)).size > 1
  const isToSend = canManage && isOver && question.sent_at === null
  return (
    <Card
      title={t('playground.answers')}
      note={<Standing slug={slug} question={question} />}
      actions={
        canManage && (
          <Row>
            {!isOver && (
              <Button busy={stop.isPending} onClick={() => stop.mutate(undefined)}>
                <Square size={16} aria-hidden="true" />
                {t('playground.stop')}
              </Button>
            )}
            {isToSend && differ && (
              <Button
                look="primary"
                busy={send.isPending}
                title={t('playground.sendHelp')}
                onClick={() => send.mutate(undefined)}
              >
                <Send size={16} aria-hidden="true" />
                {t('playground.send')}
              </Button>
            )}
          </Row>
        )
      }
    >
      {stop.isError && <ErrorPanel what={t('playground.stopFailed')} error={stop.error} />}
      {send.isError && <ErrorPanel what={t('playground.sendFailed')} error={send.error} />}
      {question.comparisons !== null && (
        <Notice
          tone="ok"
          role="status"
          action={
            <LinkButton small href={`/r/${slug}/comparisons?round=${question.id}`}>
              {t('playground.seeComparisons')}
            </LinkButton>
          }
        >
          {t('playground.sent', { n: question.comparisons })}
        </Notice>
      )}
      {isToSend && !differ && done.length > 0 && (
        <p className="muted">{t(done.length === 1 ? 'playground.oneAlone' : 'playground.allSame')}</p>
      )}
      <div className={styles.columns}>
        {question.answers.map((answer) => (
          <Column
            key={answer.id}
            answer={answer}
            several={question.completions > 1}
            onGoOn={canManage ? () => onGoOn(goneOn(question, answer.text)) : undefined}
          />
        ))}
      </div>
    </Card>
  )
}

/** One polite sentence, which changes only when the stage does. */
function Standing({ slug, question }: { slug: string; question: PlaygroundDetail }) {
  return (
    <span role="status">
      {standing(question)}{' '}
      {question.stage === 'waiting' && question.workers === 0 ? (
        <Link href={`/r/${slug}/workers`}>{t('playground.workers')}</Link>
      ) : (
        question.stage !== 'over' && <Link href={`/r/${slug}/jobs/${question.job}`}>{t('playground.job')}</Link>
      )}
    </span>
  )
}

function standing(question: PlaygroundDetail): string {
  switch (question.stage) {
    case 'waiting':
      if (question.workers === 0) return t('playground.noWorker')
      return question.ahead > 0 ? t('playground.ahead', { n: question.ahead }) : t('playground.next')
    case 'starting':
      return t('playground.starting')
    case 'answering':
      return t('playground.writing')
    case 'over': {
      const failed = question.answers.filter(({ state }) => state === 'failed').length
      return failed > 0 ? t('playground.overSome', { n: failed }) : t('playground.over')
    }
  }
}

type ColumnProps = { answer: PlaygroundAnswer; several: boolean; onGoOn?: () => void }

function Column({ answer, several, onGoOn }: ColumnProps) {
  const { policy, index, state, text, score, tokens, logprob, error } = answer
  const name = several ? t('playground.column', { policy: policy.name, n: index + 1 }) : policy.name
  const key: Key = `playground.state.${state}`
  return (
    <article className={styles.column} aria-label={name} aria-busy={state === 'writing' || undefined}>
      <header className={styles.columnHead}>
        <h3>{name}</h3>
        <Badge tone={TONES[state]}>{t(key)}</Badge>
        {answer.finish === 'length' && <Badge tone="warn">{t('playground.cut')}</Badge>}
        {score !== null && <Badge tone="live">{t('playground.score', { score: measured(score) })}</Badge>}
      </header>
      <section className={styles.text} tabIndex={0} aria-label={name}>
        {state === 'failed' && (
          <p className={styles.error}>
            {error === '' ? t('playground.columnFailedPlain') : t('playground.columnFailed', { why: sentence(error) })}
          </p>
        )}
        {text !== '' && <Markdown text={text} prefix={`${answer.id}-`} mode={state === 'writing' ? 'plain' : 'rich'} />}
        {text === '' && state === 'done' && <p className="muted">{t('playground.empty')}</p>}
      </section>
      <footer className={styles.columnFoot}>
        <span className="muted small tabular">
          {t('playground.tokens', { n: tokens })}
          {logprob !== null && ` · ${t('playground.logprob', { nats: measured(logprob) })}`}
        </span>
        {onGoOn && state === 'done' && text !== '' && (
          <Button small onClick={onGoOn}>
            <CornerDownRight size={16} aria-hidden="true" />
            {t('playground.goOn')}
          </Button>
        )}
      </footer>
    </article>
  )
}

const sentence = (text: string): string => (/[.!?]$/.test(text.trim()) ? text.trim() : `${text.trim()}.`)
