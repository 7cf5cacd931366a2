/** The buttons of a choice or of a scale, from the A end to the B end, with “both bad” apart. */

import type { Form } from 'src/api/schema'
import styles from 'src/ui/answer/Answer.module.css'
import { choiceText, type Draft, pointText } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'
import { keyOf } from 'src/ui/keys/keymap'

/** What a button of the main question sets. */
export type MainAnswer = Pick<Draft, 'choice' | 'scale'>

type ChoicesProps = {
  form: Form
  draft: Draft
  question: string
  onChoose: (answer: MainAnswer) => void
}

const NAMES = { left: 'chooseLeft', tie: 'chooseTie', right: 'chooseRight' } as const

type Entry = { answer: MainAnswer; key: string; label: string; side: 'left' | 'tie' | 'right' }

function entries(form: Form): Entry[] {
  if (form.kind === 'scale') {
    const middle = (form.points + 1) / 2
    return Array.from({ length: form.points }, (_, index) => ({
      answer: { choice: null, scale: index + 1 },
      key: String(index + 1),
      label: pointText(index + 1, form.points),
      side: index + 1 < middle ? 'left' : index + 1 > middle ? 'right' : 'tie',
    }))
  }
  const sides = form.allow_tie ? (['left', 'tie', 'right'] as const) : (['left', 'right'] as const)
  return sides.map((side) => ({
    answer: { choice: side, scale: null },
    key: keyOf(NAMES[side], ['choice']),
    label: choiceText(side),
    side,
  }))
}

export function Choices({ form, draft, question, onChoose }: ChoicesProps) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: buttons that act at once, not a form's fieldset.
    <div className={styles.choices} role="group" aria-label={question} data-field={form.kind}>
      {entries(form).map(({ answer, key, label, side }) => (
        <button
          key={key}
          type="button"
          className={`${styles.choice} ${styles[side]}`}
          aria-pressed={draft.choice === answer.choice && draft.scale === answer.scale}
          onClick={() => onChoose(answer)}
        >
          <KeyCap name={key} />
          {label}
        </button>
      ))}
    </div>
  )
}

/** Apart from the scale: no side is better, and neither is of use. */
export function BothBad({ form, draft, onChoose }: Pick<ChoicesProps, 'form' | 'draft' | 'onChoose'>) {
  return (
    <button
      type="button"
      className={`${styles.choice} ${styles.apart}`}
      aria-pressed={draft.choice === 'both_bad'}
      onClick={() => onChoose({ choice: 'both_bad', scale: null })}
    >
      <KeyCap name={keyOf(form.kind === 'scale' ? 'scaleBothBad' : 'bothBad', [])} />
      {t('task.choose.both_bad')}
    </button>
  )
}
