/** A form's rows as `Rows` shows them, and what an answered row does to the draft. */
import type { Form } from 'src/api/schema'
import { choiceText, type Draft, OVERALL, pointText } from 'src/ui/answer/answer'
import { NOT_APPLICABLE, pointOptions, type RowSpec } from 'src/ui/answer/Rows'
import { t } from 'src/ui/i18n/t'

const SIDES = ['left', 'tie', 'right'] as const
const SHORT = { left: 'A', tie: '=', right: 'B' }

export function criteriaRows(form: Form, draft: Draft): RowSpec[] {
  const options =
    form.kind === 'scale'
      ? Array.from({ length: form.points }, (_, index) => ({
          value: String(index + 1),
          text: String(index + 1),
          label: pointText(index + 1, form.points),
        }))
      : SIDES.map((side) => ({ value: side, text: SHORT[side], label: choiceText(side) }))
  const ends = form.kind === 'scale' ? { low: 'A', high: 'B' } : {}
  return form.criteria.map(({ key, label, description }) => ({
    field: `criteria.${key}`,
    label,
    help: description,
    options,
    value: draft.criteria[key] === undefined ? undefined : String(draft.criteria[key]),
    ...ends,
  }))
}

export function ratingRows(form: Form, draft: Draft, letter: string): RowSpec[] {
  const criteria =
    form.criteria.length > 0
      ? form.criteria
      : [{ key: OVERALL, label: t('rating.overall'), description: '', anchors: [] }]
  return criteria.map(({ key, label, description, anchors }) => {
    const value = draft.ratings[letter]?.[key]
    return {
      field: `ratings.${letter}.${key}`,
      label,
      help: description,
      options: pointOptions(form.points, anchors, criteria.length > 1),
      value: value === undefined ? undefined : value === null ? NOT_APPLICABLE : String(value),
      ...(anchors.length === 0 ? { low: t('rating.low'), high: t('rating.high') } : {}),
    }
  })
}

export function readRow(form: Form, draft: Draft, letter: string): RowSpec {
  const value = draft.first_ratings[letter]
  return {
    field: `first_ratings.${letter}`,
    label: t('rating.alone', { letter }),
    options: pointOptions(form.read_points),
    value: value === undefined ? undefined : String(value),
    low: t('rating.low'),
    high: t('rating.high'),
  }
}

/** The draft after a row was answered. */
export function answerRow(form: Form, draft: Draft, field: string, value: string): Draft {
  const [part = '', one = '', two = ''] = field.split('.')
  switch (part) {
    case 'criteria':
      return { ...draft, criteria: { ...draft.criteria, [one]: form.kind === 'scale' ? Number(value) : value } }
    case 'ratings': {
      const point = value === NOT_APPLICABLE ? null : Number(value)
      return { ...draft, ratings: { ...draft.ratings, [one]: { ...draft.ratings[one], [two]: point } } }
    }
    case 'first_ratings':
      return { ...draft, first_ratings: { ...draft.first_ratings, [one]: Number(value) } }
    default:
      return draft
  }
}

/** A reason or a criterion by the words of the form; one that the form has no more, by its key. */
export const labelOf = (items: readonly { key: string; label: string }[], key: string): string =>
  items.find((item) => item.key === key)?.label || key
