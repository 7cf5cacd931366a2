/** Labelled controls. Each names its error and its help to assistive technology. */
import { type ComponentProps, type ReactNode, useId } from 'react'
import { t } from 'src/ui/i18n/t'
import styles from 'src/ui/widgets/Field.module.css'

type Common = { label: ReactNode; help?: ReactNode; error?: string; unit?: string; changed?: boolean }

function useField({ label, help, error, unit, changed }: Common) {
  const id = useId()
  const described = [error && `${id}-error`, help && `${id}-help`].filter(Boolean).join(' ')
  const control = {
    id,
    className: styles.input,
    'aria-invalid': error ? true : undefined,
    'aria-describedby': described || undefined,
  }
  const wrap = (input: ReactNode) => (
    <div className={styles.field}>
      <label className={styles.label} htmlFor={id}>
        {label}
        {changed && <span className={styles.changed}>{t('form.changed')}</span>}
      </label>
      <div className={styles.control}>
        {input}
        {unit && <span className={styles.unit}>{unit}</span>}
      </div>
      {error && (
        <div className={styles.error} id={`${id}-error`}>
          {error}
        </div>
      )}
      {help && (
        <div className={styles.help} id={`${id}-help`}>
          {help}
        </div>
      )}
    </div>
  )
  return { control, wrap }
}

export function TextField({
  label,
  help,
  error,
  unit,
  changed,
  ...rest
}: Common & Omit<ComponentProps<'input'>, 'id' | 'className'>) {
  const { control, wrap } = useField({ label, help, error, unit, changed })
  return wrap(<input type="text" autoComplete="off" {...rest} {...control} />)
}

export function TextArea({
  label,
  help,
  error,
  ...rest
}: Common & Omit<ComponentProps<'textarea'>, 'id' | 'className'>) {
  const { control, wrap } = useField({ label, help, error })
  return wrap(<textarea {...rest} {...control} />)
}

export function SelectField({
  label,
  help,
  error,
  changed,
  options,
  ...rest
}: Common & Omit<ComponentProps<'select'>, 'id' | 'className' | 'children'> & { options: [string, string][] }) {
  const { control, wrap } = useField({ label, help, error, changed })
  return wrap(
    <select {...rest} {...control}>
      {options.map(([value, text]) => (
        <option key={value} value={value}>
          {text}
        </option>
      ))}
    </select>,
  )
}

type ChoiceProps = Omit<ComponentProps<'input'>, 'className' | 'type'> & {
  kind: 'radio' | 'checkbox'
  label: ReactNode
  note?: ReactNode
}

/** A radio or checkbox as a card with a second line. */
export function ChoiceCard({ kind, label, note, ...rest }: ChoiceProps) {
  return (
    <label className={styles.choice}>
      <input type={kind} {...rest} />
      <span className={styles.choiceLabel}>{label}</span>
      {note && <span className={styles.choiceNote}>{note}</span>}
    </label>
  )
}

type GroupProps = { legend: string; titled?: boolean; error?: string; children: ReactNode }

/** `titled`: a heading above says the same, so the legend is for those who hear the page. */
export function ChoiceGroup({ legend, titled, error, children }: GroupProps) {
  return (
    <fieldset>
      <legend className={titled ? 'visually-hidden' : styles.legend}>{legend}</legend>
      <div className={styles.choices}>{children}</div>
      {error && (
        <div className={styles.error} role="alert">
          {error}
        </div>
      )}
    </fieldset>
  )
}
