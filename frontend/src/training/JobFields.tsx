/** The settings of a method, as the server describes them: those that matter most, then the others by part. */
import type { Field, Method } from 'src/api/schema'
import { asText, type Config, type Draft, type Fault, faultOf, isHidden, startOf } from 'src/training/config'
import styles from 'src/training/NewJob.module.css'
import { measured } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { SelectField, TextField } from 'src/ui/widgets/Field'

const SECTIONS: Record<string, Key> = {
  run: 'section.run',
  models: 'section.models',
  data: 'section.data',
  batch: 'section.batch',
  optim: 'section.optim',
  adapter: 'section.adapter',
  precision: 'section.precision',
  memory: 'section.memory',
  sampling: 'section.sampling',
  kl: 'section.kl',
  eval: 'section.eval',
  checkpoint: 'section.checkpoint',
  stop: 'section.stop',
}

/** A part that has the method's name is what is the method's own. */
export function sectionTitle(section: string, method: Method): string {
  const key = SECTIONS[section]
  return key ? t(key) : t('section.own', { method: method.title })
}

/** What values are allowed, in words; empty where all are. */
export function rangeText(field: Field): string {
  const { low, high, low_excluded, high_excluded } = field
  // Half-open limits of whole numbers are those of their storage, not of their meaning.
  if (high !== null && high > 1e9) return low === null ? '' : rangeText({ ...field, high: null })
  if (low !== null && high !== null && !low_excluded && !high_excluded) {
    return t('fault.between', { low: measured(low), high: measured(high) })
  }
  const least =
    low === null ? [] : [t(low_excluded ? 'fault.above' : 'fault.atLeast', { value: low === 0 ? '0' : measured(low) })]
  const most = high === null ? [] : [t(high_excluded ? 'fault.below' : 'fault.atMost', { value: measured(high) })]
  return [...least, ...most].join(', ')
}

const sentence = (text: string): string => (text === '' ? '' : `${text.charAt(0).toUpperCase()}${text.slice(1)}.`)

export function faultText(field: Field, fault: Fault | null): string | undefined {
  switch (fault) {
    case null:
      return undefined
    case 'empty':
      return t('fault.empty')
    case 'number':
      return t('fault.number')
    case 'integer':
      return t('fault.integer')
    default:
      return t('fault.range', { range: rangeText(field) })
  }
}

type FieldsProps = {
  method: Method
  /** Where the form starts: defaults with preset and machine, or the config of the job that is cloned. */
  base: Config
  draft: Draft
  errors: Record<string, string>
  changed: ReadonlySet<string>
  setField: (path: string, text: string) => void
}

export function JobFields(props: FieldsProps) {
  const { method, base, draft, errors, changed } = props
  const all = [...method.fields_shown, ...method.fields_more]
  const visible = (field: Field) => !isHidden(field, all, base, draft)
  const sections = [...new Set(method.fields_more.map((field) => field.section))]
  return (
    <>
      <Grid {...props} fields={method.fields_shown.filter(visible)} />
      {sections.map((section) => {
        const fields = method.fields_more.filter((field) => field.section === section)
        const touched = fields.filter((field) => changed.has(field.path)).length
        const wrong = fields.some((field) => errors[field.path] !== undefined)
        return (
          <details key={section} className={styles.section} open={wrong || undefined}>
            <summary>
              {sectionTitle(section, method)}{' '}
              <span className="muted small">
                {t('newJob.sectionCount', { n: fields.length })}
                {touched > 0 && ` · ${t('newJob.sectionChanged', { n: touched })}`}
              </span>
            </summary>
            <Grid {...props} fields={fields.filter(visible)} />
          </details>
        )
      })}
    </>
  )
}

function Grid({ fields, ...rest }: FieldsProps & { fields: Field[] }) {
  return (
    <div className={styles.fields}>
      {fields.map((field) => (
        <OneField key={field.path} field={field} {...rest} />
      ))}
    </div>
  )
}

/** What the engine says of its settings: it speaks English, whatever the page speaks. */
const English = ({ children }: { children: string }) => <span lang="en">{children}</span>

function OneField({ field, base, draft, errors, changed, setField }: FieldsProps & { field: Field }) {
  const value = draft[field.path] ?? asText(field, startOf(field, base))
  const fault = draft[field.path] === undefined ? null : faultOf(field, value)
  const told = field.type === 'choice' ? field.choice_help[field.choices.indexOf(value)] : ''
  const help = [field.help, told].filter(Boolean).join(' ').replaceAll('`', '')
  const range = field.type === 'choice' ? '' : sentence(rangeText(field))
  const shared = {
    label: <English>{field.label}</English>,
    help: (help || range) && (
      <>
        {help && <English>{help}</English>} {range}
      </>
    ),
    title: field.path,
    error: errors[field.path] ?? faultText(field, fault),
    changed: changed.has(field.path),
    value,
    onChange: (event: { target: { value: string } }) => setField(field.path, event.target.value),
  }
  if (field.type === 'boolean' || field.type === 'section') {
    const [yes, no] = field.type === 'boolean' ? [t('form.yes'), t('form.no')] : [t('newJob.on'), t('newJob.off')]
    return (
      <SelectField
        {...shared}
        options={[
          ['true', yes],
          ['false', no],
        ]}
      />
    )
  }
  if (field.type === 'choice') {
    const none: [string, string][] = field.optional ? [['', t('form.none')]] : []
    return <SelectField {...shared} options={[...none, ...field.choices.map((one): [string, string] => [one, one])]} />
  }
  const isNumber = field.type === 'number' || field.type === 'integer'
  return (
    <TextField
      {...shared}
      unit={field.unit || undefined}
      inputMode={field.type === 'integer' ? 'numeric' : isNumber ? 'decimal' : 'text'}
      placeholder={field.optional ? t('form.none') : undefined}
    />
  )
}
