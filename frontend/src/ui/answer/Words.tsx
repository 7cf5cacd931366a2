/** Why: reasons to click, and a line of text. */

import type { Form } from 'src/api/schema'
import styles from 'src/ui/answer/Answer.module.css'
import type { Draft } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'

const MOST = 4000

type WordsProps = { form: Form; draft: Draft; onChange: (draft: Draft) => void }

export function Words({ form, draft, onChange }: WordsProps) {
  if (form.reasons.length === 0 && form.rationale === 'off') return null
  const toggle = (key: string) =>
    onChange({
      ...draft,
      reasons: draft.reasons.includes(key) ? draft.reasons.filter((other) => other !== key) : [...draft.reasons, key],
    })
  const label = form.rationale === 'required' ? t('words.why') : t('words.whyOptional')
  return (
    <div className={styles.words}>
      {form.reasons.length > 0 && (
        <fieldset className={styles.chips} data-field="reasons">
          <legend className="visually-hidden">
            {form.reasons_required ? t('words.reasons') : t('words.reasonsOptional')}
          </legend>
          {form.reasons.map(({ key, label }) => (
            <label key={key} className={styles.reason}>
              <input type="checkbox" checked={draft.reasons.includes(key)} onChange={() => toggle(key)} />
              {label}
            </label>
          ))}
        </fieldset>
      )}
      {form.rationale !== 'off' && (
        <label className={styles.rationale} data-field="rationale">
          <span>
            <KeyCap name="r" /> {label}
          </span>
          <textarea
            rows={1}
            maxLength={MOST}
            value={draft.rationale}
            aria-required={form.rationale === 'required'}
            onChange={(event) => onChange({ ...draft, rationale: event.target.value })}
            onKeyDown={(event) => {
              if (event.key !== 'Escape') return
              event.stopPropagation()
              event.currentTarget.blur()
            }}
          />
        </label>
      )}
    </div>
  )
}
