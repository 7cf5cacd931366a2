/** The question, the answer and the tools. Every action is a button that carries its key. */
import styles from 'src/annotate/Task.module.css'
import type { Form } from 'src/api/schema'
import { type Draft, isOneKey, lettersOf, missing } from 'src/ui/answer/answer'
import { BothBad, Choices, type MainAnswer } from 'src/ui/answer/Choices'
import { answerRow, criteriaRows } from 'src/ui/answer/fields'
import { Ranking } from 'src/ui/answer/Ranking'
import { Rows } from 'src/ui/answer/Rows'
import { Words } from 'src/ui/answer/Words'
import { t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'
import { type ActionName, action, keyOf, type Scope } from 'src/ui/keys/keymap'
import type { Handlers } from 'src/ui/keys/useKeys'
import { Button } from 'src/ui/widgets/Button'

type AnswerBarProps = {
  question: string
  form: Form
  size: number
  draft: Draft
  /** The completion read alone now, or null. */
  single: number | null
  tieNext: boolean
  scopes: readonly Scope[]
  handlers: Handlers
  pressed: Partial<Record<ActionName, boolean>>
  message: string
  /** Takes back what the message tells of. */
  onUndo?: (() => void) | undefined
  onDraft: (draft: Draft) => void
  onChoose: (answer: MainAnswer) => void
  onRank: (ranking: string[][], tieNext: boolean) => void
  onSubmit: () => void
}

const TOOLS: ActionName[] = ['skip', 'flag', 'undo', 'source', 'differences', 'lock', 'guideline', 'help']
/** The completions that a tool needs to be of use. */
const NEEDS: Partial<Record<ActionName, (size: number) => boolean>> = {
  differences: (size) => size === 2,
  lock: (size) => size > 1,
}

export function AnswerBar(props: AnswerBarProps) {
  const { question, form, size, draft, single, scopes, handlers, pressed, message, onDraft, onSubmit } = props
  const letters = lettersOf(size)
  const whole = missing(form, draft, size) === null
  return (
    <section className={styles.bar} aria-label={t('task.answer')}>
      <div className={styles.question}>
        {single === null ? question : t('rating.aloneQuestion')}
        {single === null && form.allow_both_bad && <BothBad form={form} draft={draft} onChoose={props.onChoose} />}
      </div>
      {single === null ? (
        <>
          {(form.kind === 'choice' || form.kind === 'scale') && (
            <Choices form={form} draft={draft} question={question} onChoose={props.onChoose} />
          )}
          {form.kind === 'ranking' && (
            <Ranking
              letters={letters}
              ranking={draft.ranking}
              ties={form.allow_tie}
              tieNext={props.tieNext}
              onRank={props.onRank}
            />
          )}
          {(form.kind === 'choice' || form.kind === 'scale') && form.criteria.length > 0 && (
            <div className={styles.criteria}>
              <Rows
                rows={criteriaRows(form, draft)}
                onAnswer={(field, value) => onDraft(answerRow(form, draft, field, value))}
              />
            </div>
          )}
          <div className={styles.last}>
            <Words form={form} draft={draft} onChange={onDraft} />
            {(!isOneKey(form) || whole) && (
              <Button look={whole ? 'primary' : 'plain'} data-field="submit" onClick={onSubmit}>
                <KeyCap name="enter" />
                {t('task.submit')}
              </Button>
            )}
          </div>
        </>
      ) : (
        <Button look="primary" data-field="submit" onClick={onSubmit}>
          <KeyCap name="enter" />
          {t('task.goOn')}
        </Button>
      )}
      <div className={styles.tools}>
        {TOOLS.filter((name) => NEEDS[name]?.(size) ?? true).map((name) => (
          <button
            key={name}
            type="button"
            className={`${styles.tool} ${name === 'lock' || name === 'help' ? styles.keysOnly : ''}`}
            disabled={!handlers[name]}
            aria-pressed={pressed[name]}
            onClick={handlers[name]}
          >
            <KeyCap name={keyOf(name, scopes)} />
            {t(action(name).label)}
          </button>
        ))}
      </div>
      <div className={styles.message}>
        <span role="status" aria-live="polite">
          {message}
        </span>
        {props.onUndo && (
          <button type="button" className={styles.undo} aria-label={t('done.undo')} onClick={props.onUndo}>
            {t('task.undo')}
          </button>
        )}
      </div>
    </section>
  )
}
