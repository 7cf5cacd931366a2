/** The keys of an answer: which scope hears them, what each does to the draft, and where the focus goes next. */
import { type RefObject, useState } from 'react'
import { type Attention, whyHeld } from 'src/annotate/readingRules'
import { alone } from 'src/annotate/TaskView'
import type { Task } from 'src/api/schema'
import {
  type Draft,
  isOneKey,
  letterOf,
  lettersOf,
  missing,
  move,
  place,
  rankingText,
  takeBack,
} from 'src/ui/answer/answer'
import type { MainAnswer } from 'src/ui/answer/Choices'
import { answerRow, criteriaRows, ratingRows, readRow } from 'src/ui/answer/fields'
import { tie } from 'src/ui/answer/Ranking'
import { focusRow, NOT_APPLICABLE, type RowSpec } from 'src/ui/answer/Rows'
import { type Key, t } from 'src/ui/i18n/t'
import type { Scope } from 'src/ui/keys/keymap'
import type { Handlers } from 'src/ui/keys/useKeys'

const MAIN_SCOPE: Record<Task['form']['kind'], Scope[]> = {
  choice: ['choice'],
  scale: ['scale'],
  ranking: ['rank'],
  rating: [],
}

const MISSING: Record<string, Key> = {
  choice: 'missing.choice',
  scale: 'missing.choice',
  ranking: 'missing.ranking',
  ratings: 'missing.ratings',
  criteria: 'missing.criteria',
  reasons: 'missing.reasons',
  rationale: 'missing.rationale',
  first_ratings: 'missing.first_ratings',
}

type Init = {
  task: Task | null
  draft: Draft | null
  screen: RefObject<HTMLElement | null>
  /** False right after a task appears, so that a double press answers one. */
  ready: () => boolean
  attention: () => Omit<Attention, 'single'>
  onDraft: (draft: Draft) => void
  onGive: (whole: Draft) => void
  /** The next completion is shown alone, or all together. */
  onNext: () => void
  say: (message: string) => void
}

/** Every row on the screen now, in its order. */
function rowsOf({ form, completions }: Task, draft: Draft, single: number | null): RowSpec[] {
  if (single !== null) return [readRow(form, draft, letterOf(single))]
  if (form.kind === 'rating') return lettersOf(completions.length).flatMap((letter) => ratingRows(form, draft, letter))
  return form.kind === 'ranking' ? [] : criteriaRows(form, draft)
}

export function useAnswer({ task, draft, screen, ready, attention, onDraft, onGive, onNext, say }: Init) {
  const [tieFor, setTieFor] = useState<string | null>(null)
  const size = task?.completions.length ?? 0
  const single = task && draft ? alone(task, draft) : null
  const rows = task && draft ? rowsOf(task, draft, single) : []

  const find = (field: string) =>
    [...(screen.current?.querySelectorAll(`[data-field="${field}"]`) ?? [])].find((node) => !node.closest('[inert]'))
  /** After the change is on the screen. */
  const focusField = (field: string) =>
    requestAnimationFrame(() => {
      const node = find(field)
      const inside = node?.querySelector<HTMLElement>('textarea, button:not(:disabled)')
      if (node instanceof HTMLButtonElement) node.focus()
      else if (inside) inside.focus()
      else focusRow(node)
    })
  const focusNext = (after: Draft) => task && focusField(missing(task.form, after, size) ?? 'submit')

  /** The row that digits answer: the one with the focus, else the first that is still open. */
  const rowAtHand = (): RowSpec | undefined => {
    const field = document.activeElement?.closest('[data-field]')?.getAttribute('data-field')
    const focused = rows.find((row) => row.field === field)
    if (focused || (single === null && task?.form.kind !== 'rating')) return focused
    return rows.find((row) => row.value === undefined) ?? (single !== null ? rows[0] : undefined)
  }

  const answerAtHand = (pick: (row: RowSpec) => string | undefined) => () => {
    const row = rowAtHand()
    const value = row && pick(row)
    if (!task || !draft || !row || value === undefined || !ready()) return
    const after = answerRow(task.form, draft, row.field, value)
    onDraft(after)
    const next = rows[rows.indexOf(row) + 1]
    if (next) focusField(next.field)
    else if (single !== null) focusField('submit')
    else focusNext(after)
  }

  /** Whether the project asks for more reading first, which is then said. */
  const isHeld = (shown: Task): boolean => {
    const why = whyHeld(shown, { single, ...attention() })
    if (why !== null) say(why)
    return why !== null
  }

  const choose = (answer: MainAnswer) => {
    if (!task || !draft || !ready()) return
    if (single !== null) {
      say(t('missing.first_ratings'))
      return
    }
    if (isHeld(task)) return
    const after = { ...draft, ...answer }
    if (isOneKey(task.form)) {
      onGive(after)
      return
    }
    onDraft(after)
    focusNext(after)
  }

  const rank = (ranking: string[][], tieNext: boolean) => {
    if (!task || !draft || !ready()) return
    if (single !== null) {
      say(t('missing.first_ratings'))
      return
    }
    if (isHeld(task)) return
    onDraft({ ...draft, ranking })
    setTieFor(tieNext ? task.assignment : null)
    say(ranking.length > 0 ? t('rank.now', { order: rankingText(ranking) + (tieNext ? ' =' : '') }) : '')
  }

  const submit = () => {
    if (!task || !draft || !ready()) return
    if (single !== null) {
      const letter = letterOf(single)
      if (draft.first_ratings[letter] === undefined) {
        say(t('missing.first_ratings'))
        focusField(`first_ratings.${letter}`)
        return
      }
      if (isHeld(task)) return
      onDraft({ ...draft, read: single + 1 })
      onNext()
      return
    }
    const field = missing(task.form, draft, size)
    if (field === null) {
      if (isHeld(task)) return
      onGive(draft)
      return
    }
    const message = MISSING[field.split('.')[0] ?? '']
    if (message) say(t(message))
    focusField(field)
  }

  const tieNext = task !== null && tieFor === task.assignment
  /** The completion at hand: of the focused button or pane, else the one placed last. */
  const letterAtHand = () =>
    document.activeElement?.closest('[data-letter]')?.getAttribute('data-letter') ?? draft?.ranking.at(-1)?.at(-1) ?? ''

  const handlers: Handlers = {}
  if (task && draft) {
    const { form } = task
    handlers.submit = submit
    handlers.rationale =
      form.rationale !== 'off' || form.reasons.length > 0
        ? () => focusField(form.rationale === 'off' ? 'reasons' : 'rationale')
        : undefined
    handlers.notApplicable = answerAtHand(({ options }) => options.find(({ value }) => value === NOT_APPLICABLE)?.value)
    for (const digit of [1, 2, 3, 4, 5, 6, 7, 8, 9] as const) {
      handlers[`row${digit}`] = answerAtHand(({ options }) => options[digit - 1]?.value)
      if (form.kind === 'scale' && digit <= form.points) {
        handlers[`point${digit}`] = () => choose({ choice: null, scale: digit })
      }
      if (form.kind === 'ranking' && digit <= size) {
        handlers[`place${digit}`] = () => {
          rank(place(draft.ranking, letterOf(digit - 1), tieNext && form.allow_tie), false)
        }
      }
    }
    if (form.kind === 'choice') {
      handlers.chooseLeft = () => choose({ choice: 'left', scale: null })
      handlers.chooseRight = () => choose({ choice: 'right', scale: null })
      if (form.allow_tie) handlers.chooseTie = () => choose({ choice: 'tie', scale: null })
    }
    if (form.allow_both_bad) {
      const bothBad = () => choose({ choice: 'both_bad', scale: null })
      handlers.bothBad = bothBad
      handlers.scaleBothBad = bothBad
    }
    if (form.kind === 'ranking') {
      if (form.allow_tie) handlers.tie = () => rank(...tie(draft.ranking, size, tieNext))
      handlers.takeBack = () => rank(takeBack(draft.ranking), false)
      handlers.moveUp = () => rank(move(draft.ranking, letterAtHand(), -1), false)
      handlers.moveDown = () => rank(move(draft.ranking, letterAtHand(), 1), false)
    }
  }

  const scopes = (): Scope[] => {
    const main = task ? MAIN_SCOPE[task.form.kind] : []
    return rowAtHand() ? ['row', ...main, 'task', 'any'] : [...main, 'task', 'any']
  }
  return { handlers, scopes, choose, rank, submit, tieNext }
}
