/** The feedback form of a project: its kind and rules, criteria and reasons, and how a task will look. */
import { Plus, Trash2 } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { patchProject } from 'src/api/queries'
import type { Form } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/setup/FormBuilder.module.css'
import { emptyDraft, lettersOf } from 'src/ui/answer/answer'
import { BothBad, Choices } from 'src/ui/answer/Choices'
import { answerRow, criteriaRows, ratingRows, readRow } from 'src/ui/answer/fields'
import { Ranking } from 'src/ui/answer/Ranking'
import { Rows } from 'src/ui/answer/Rows'
import { Words } from 'src/ui/answer/Words'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { ChoiceCard, SelectField, TextArea, TextField } from 'src/ui/widgets/Field'
import { Card, Columns, Row } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'

const KINDS: Form['kind'][] = ['choice', 'scale', 'ranking', 'rating']
const RATIONALES: Form['rationale'][] = ['off', 'optional', 'required']
const range = (from: number, to: number): [string, string][] =>
  Array.from({ length: to - from + 1 }, (_, index) => [String(from + index), String(from + index)])
const FIVE_SEVEN: [string, string][] = [
  ['5', '5'],
  ['7', '7'],
]

/** The form with what another kind does not have put right. */
export function ofKind(form: Form, kind: Form['kind']): Form {
  const isPair = kind === 'choice' || kind === 'scale'
  return {
    ...form,
    kind,
    size: isPair ? 2 : kind === 'ranking' ? Math.max(3, form.size) : form.size,
    points: kind === 'rating' && form.points !== 7 ? 5 : form.points,
    allow_both_bad: isPair && form.allow_both_bad,
    read_first: kind !== 'rating' && form.read_first,
    criteria: form.criteria.map((criterion) => ({
      ...criterion,
      anchors: kind === 'rating' ? criterion.anchors : [],
    })),
  }
}

/** A key from a label: `Is it true?` is `is-it-true`. */
export const keyFrom = (label: string): string =>
  label
    .toLowerCase()
    .normalize('NFKD')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 40)

export function FormBuilder({ slug, form: saved }: { slug: string; form: Form }) {
  const { canManage } = useMembership(slug)
  const [form, setForm] = useState(saved)
  const save = useWrite(slug, () => patchProject(slug, { form: { ...form } }))
  const errors = fieldErrors(save.error)
  const change = (more: Partial<Form>) => setForm({ ...form, ...more })
  const isPair = form.kind === 'choice' || form.kind === 'scale'
  const flag = (name: 'allow_tie' | 'allow_both_bad' | 'reasons_required' | 'read_first') => (
    <ChoiceCard
      kind="checkbox"
      label={t(`formBuilder.${name}`)}
      note={errors[`form.${name}`]}
      checked={form[name]}
      onChange={(event) => change({ [name]: event.target.checked })}
    />
  )
  const number = (name: 'size' | 'points' | 'read_points', options: [string, string][]) => (
    <SelectField
      label={t(`formBuilder.${name}`)}
      error={errors[`form.${name}`]}
      value={String(form[name])}
      options={options}
      onChange={(event) => change({ [name]: Number(event.target.value) })}
    />
  )
  return (
    <form
      noValidate
      style={{ display: 'grid', gap: 24 }}
      onSubmit={(event) => {
        event.preventDefault()
        save.mutate(undefined)
      }}
    >
      <Card title={t('formBuilder.title')} note={t('formBuilder.note')}>
        <Columns width={240}>
          <SelectField
            label={t('formBuilder.kind')}
            help={t(`formBuilder.kind.${form.kind}.help`)}
            error={errors['form.kind']}
            value={form.kind}
            options={KINDS.map((kind): [string, string] => [kind, t(`formBuilder.kind.${kind}`)])}
            onChange={(event) => setForm(ofKind(form, event.target.value as Form['kind']))}
          />
          {!isPair && number('size', range(form.kind === 'ranking' ? 3 : 1, 9))}
          {form.kind === 'scale' && number('points', range(2, 7))}
          {form.kind === 'rating' && number('points', FIVE_SEVEN)}
          <SelectField
            label={t('formBuilder.rationale')}
            error={errors['form.rationale']}
            value={form.rationale}
            options={RATIONALES.map((name): [string, string] => [name, t(`formBuilder.rationale.${name}`)])}
            onChange={(event) => change({ rationale: event.target.value as Form['rationale'] })}
          />
          {form.read_first && number('read_points', FIVE_SEVEN)}
          {(form.kind === 'choice' || form.kind === 'ranking') && flag('allow_tie')}
          {isPair && flag('allow_both_bad')}
          {form.kind !== 'rating' && flag('read_first')}
          {form.reasons.length > 0 && flag('reasons_required')}
        </Columns>
      </Card>
      {form.kind !== 'ranking' && <CriteriaEditor form={form} onChange={change} error={criteriaError(errors)} />}
      <ReasonsEditor form={form} onChange={change} error={errors['form.reasons'] ?? errors['form.reasons.key']} />
      <Preview form={form} />
      {save.isError && <ErrorPanel what={t('settings.saveFailed')} error={save.error} />}
      {save.isSuccess && (
        <Notice tone="ok" role="status">
          {t('settings.saved')}
        </Notice>
      )}
      {canManage && (
        <Row>
          <Button
            look="primary"
            type="submit"
            busy={save.isPending}
            disabled={JSON.stringify(form) === JSON.stringify(saved)}
          >
            {t('formBuilder.save')}
          </Button>
          <Button onClick={() => setForm(saved)}>{t('newJob.reset')}</Button>
        </Row>
      )}
    </form>
  )
}

const criteriaError = (errors: Record<string, string>): string | undefined =>
  Object.entries(errors).find(([field]) => field.startsWith('form.criteria'))?.[1]

type EditorProps = { form: Form; onChange: (more: Partial<Form>) => void; error: string | undefined }

function CriteriaEditor({ form, onChange, error }: EditorProps) {
  const set = (index: number, more: Partial<Form['criteria'][number]>) =>
    onChange({ criteria: form.criteria.map((item, at) => (at === index ? { ...item, ...more } : item)) })
  return (
    <Card
      title={t('formBuilder.criteria')}
      note={form.kind === 'rating' ? t('formBuilder.criteriaRating') : t('formBuilder.criteriaPair')}
      actions={
        <Button
          small
          onClick={() =>
            onChange({ criteria: [...form.criteria, { key: '', label: '', description: '', anchors: [] }] })
          }
        >
          <Plus size={16} aria-hidden="true" />
          {t('formBuilder.add')}
        </Button>
      }
    >
      {form.criteria.map((criterion, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: rows are added at the end and edited in place.
        <div key={index} className={styles.item}>
          <TextField
            label={t('formBuilder.label')}
            help={t('formBuilder.keyIs', { key: criterion.key || '–' })}
            value={criterion.label}
            onChange={(event) => set(index, labelled(criterion, event.target.value))}
          />
          <TextField
            label={t('formBuilder.description')}
            value={criterion.description}
            onChange={(event) => set(index, { description: event.target.value })}
          />
          {form.kind === 'rating' && (
            <TextArea
              label={t('formBuilder.anchors', { points: form.points })}
              help={t('formBuilder.anchorsHelp')}
              rows={3}
              value={criterion.anchors.join('\n')}
              onChange={(event) =>
                set(index, { anchors: event.target.value === '' ? [] : event.target.value.split('\n') })
              }
            />
          )}
          <RemoveButton
            name={criterion.label}
            onClick={() => onChange({ criteria: form.criteria.filter((_, at) => at !== index) })}
          />
        </div>
      ))}
      {error && <Notice tone="error">{error}</Notice>}
    </Card>
  )
}

/** The key follows the label until it is one that was saved under another. */
function labelled<Item extends { key: string; label: string }>(
  item: Item,
  label: string,
): { key: string; label: string } {
  return { label, key: item.key === keyFrom(item.label) ? keyFrom(label) : item.key }
}

function ReasonsEditor({ form, onChange, error }: EditorProps) {
  return (
    <Card
      title={t('formBuilder.reasons')}
      note={t('formBuilder.reasonsNote')}
      actions={
        <Button small onClick={() => onChange({ reasons: [...form.reasons, { key: '', label: '' }] })}>
          <Plus size={16} aria-hidden="true" />
          {t('formBuilder.add')}
        </Button>
      }
    >
      {form.reasons.map((chip, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: rows are added at the end and edited in place.
        <div key={index} className={styles.item}>
          <TextField
            label={t('formBuilder.label')}
            help={t('formBuilder.keyIs', { key: chip.key || '–' })}
            value={chip.label}
            onChange={(event) =>
              onChange({
                reasons: form.reasons.map((item, at) => (at === index ? labelled(item, event.target.value) : item)),
              })
            }
          />
          <RemoveButton
            name={chip.label}
            onClick={() => {
              const reasons = form.reasons.filter((_, at) => at !== index)
              onChange({ reasons, reasons_required: form.reasons_required && reasons.length > 0 })
            }}
          />
        </div>
      ))}
      {error && <Notice tone="error">{error}</Notice>}
    </Card>
  )
}

function RemoveButton({ name, onClick }: { name: string; onClick: () => void }) {
  return (
    <Button look="quiet" small icon aria-label={t('formBuilder.remove', { name })} onClick={onClick}>
      <Trash2 size={16} aria-hidden="true" />
    </Button>
  )
}

/** The answer part of a task with this form; nothing of it is saved. */
function Preview({ form }: { form: Form }) {
  const [draft, setDraft] = useState(emptyDraft)
  const letters = lettersOf(form.size)
  const answer = (field: string, value: string) => setDraft(answerRow(form, draft, field, value))
  return (
    <Card title={t('formBuilder.preview')} note={t('formBuilder.previewNote')}>
      <div className={styles.preview}>
        {form.read_first && <Rows rows={letters.map((letter) => readRow(form, draft, letter))} onAnswer={answer} />}
        {(form.kind === 'choice' || form.kind === 'scale') && (
          <>
            {form.allow_both_bad && (
              <BothBad form={form} draft={draft} onChoose={(main) => setDraft({ ...draft, ...main })} />
            )}
            <Choices
              form={form}
              draft={draft}
              question={t('formBuilder.preview')}
              onChoose={(main) => setDraft({ ...draft, ...main })}
            />
            <Rows rows={criteriaRows(form, draft)} onAnswer={answer} />
          </>
        )}
        {form.kind === 'ranking' && (
          <Ranking
            letters={letters}
            ranking={draft.ranking}
            ties={form.allow_tie}
            tieNext={false}
            onRank={(ranking) => setDraft({ ...draft, ranking })}
          />
        )}
        {form.kind === 'rating' && <Rows rows={ratingRows(form, draft, 'A')} onAnswer={answer} />}
        <Words form={form} draft={draft} onChange={setDraft} />
      </div>
    </Card>
  )
}
