/** The question, the answers and the tools. Every action is a button that carries its key. */
import type { ReactNode } from 'react'
import styles from 'src/annotate/Task.module.css'
import { t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'
import { type ActionName, action } from 'src/ui/keys/keymap'
import type { Handlers } from 'src/ui/keys/useKeys'

type ChoiceBarProps = {
  question: string
  allowTie: boolean
  handlers: Handlers
  pressed: Partial<Record<ActionName, boolean>>
  message: ReactNode
}

const TOOLS: ActionName[] = ['skip', 'flag', 'undo', 'source', 'lock', 'guideline', 'help']

export function ChoiceBar({ question, allowTie, handlers, pressed, message }: ChoiceBarProps) {
  const choice = (name: ActionName, look: string | undefined) => (
    <button type="button" className={`${styles.choice} ${look}`} onClick={handlers[name]}>
      <KeyCap name={action(name).keys[0] ?? ''} />
      {t(action(name).label)}
    </button>
  )
  return (
    <section className={styles.bar} aria-label={t('task.answer')}>
      <div className={styles.question}>{question}</div>
      {/* biome-ignore lint/a11y/useSemanticElements: buttons that act at once, not a form's fieldset. */}
      <div className={styles.choices} role="group" aria-label={question}>
        {choice('chooseLeft', styles.left)}
        {allowTie && choice('chooseTie', styles.tie)}
        {choice('chooseRight', styles.right)}
      </div>
      <div className={styles.tools}>
        {TOOLS.map((name) => (
          <button
            key={name}
            type="button"
            className={`${styles.tool} ${name === 'lock' || name === 'help' ? styles.keysOnly : ''}`}
            disabled={!handlers[name]}
            aria-pressed={pressed[name]}
            onClick={handlers[name]}
          >
            <KeyCap name={action(name).keys[0] ?? ''} />
            {t(action(name).label)}
          </button>
        ))}
      </div>
      <div className={styles.message} role="status" aria-live="polite">
        {message}
      </div>
    </section>
  )
}
