/** An answer while a person gives it, for every kind of form: what is missing, and the body that is sent. Knows no screen. */
import type { Answer, Form } from 'src/api/schema'
import { type Key, t } from 'src/ui/i18n/t'

export type Choice = NonNullable<Answer['choice']>
export type Ratings = Record<string, Record<string, number | null>>
/** An answer as the API takes it; sides and letters are those of the screen. */
export type AnswerBody = Answer

export type Draft = {
  choice: Choice | null
  scale: number | null
  /** Letters from best to worst, equal ones together. */
  ranking: string[][]
  ratings: Ratings
  criteria: Record<string, string | number>
  reasons: string[]
  rationale: string
  first_ratings: Record<string, number>
  /** How many completions were read and rated alone. */
  read: number
}

export const OVERALL = 'overall'
export const letterOf = (index: number): string => String.fromCharCode(65 + index)
export const lettersOf = (size: number): string[] => Array.from({ length: size }, (_, index) => letterOf(index))

export const emptyDraft = (): Draft => ({
  choice: null,
  scale: null,
  ranking: [],
  ratings: {},
  criteria: {},
  reasons: [],
  rationale: '',
  first_ratings: {},
  read: 0,
})

/** The draft that a stored answer was. */
export function draftOf(answer: Answer | null): Draft {
  if (answer === null) return emptyDraft()
  return {
    choice: answer.choice ?? null,
    scale: answer.scale ?? null,
    ranking: answer.ranking ?? [],
    ratings: answer.ratings ?? {},
    criteria: (answer.criteria ?? {}) as Draft['criteria'],
    reasons: answer.reasons ?? [],
    rationale: answer.rationale ?? '',
    first_ratings: answer.first_ratings ?? {},
    read: Object.keys(answer.first_ratings ?? {}).length,
  }
}

/** What each completion is rated on; without criteria that is the whole. */
export const ratedOf = (form: Form): string[] =>
  form.criteria.length > 0 ? form.criteria.map(({ key }) => key) : [OVERALL]

const isPair = (form: Form): boolean => form.kind === 'choice' || form.kind === 'scale'

/** One question and nothing required: the key is the vote. Else the key selects, and Enter submits. */
export const isOneKey = (form: Form): boolean =>
  isPair(form) && form.criteria.length === 0 && !form.reasons_required && form.rationale !== 'required'

/** The first field that still wants something, by its name in the answer; null where the answer is whole. */
export function missing(form: Form, draft: Draft, size: number): string | null {
  const letters = lettersOf(size)
  if (form.read_first) {
    const unread = letters.find((letter, index) => draft.first_ratings[letter] === undefined || index >= draft.read)
    if (unread) return `first_ratings.${unread}`
  }
  const main = missingMain(form, draft, letters)
  if (main) return main
  if (isPair(form)) {
    const criterion = form.criteria.find(({ key }) => draft.criteria[key] === undefined)
    if (criterion) return `criteria.${criterion.key}`
  }
  if (form.reasons_required && draft.reasons.length === 0) return 'reasons'
  if (form.rationale === 'required' && draft.rationale.trim() === '') return 'rationale'
  return null
}

function missingMain(form: Form, draft: Draft, letters: string[]): string | null {
  switch (form.kind) {
    case 'choice':
      return draft.choice === null ? 'choice' : null
    case 'scale':
      return draft.scale === null && draft.choice !== 'both_bad' ? 'scale' : null
    case 'ranking':
      return draft.ranking.flat().length < letters.length ? 'ranking' : null
    case 'rating': {
      for (const letter of letters) {
        const row = draft.ratings[letter] ?? {}
        const keys = ratedOf(form)
        const open = keys.find((key) => row[key] === undefined)
        if (open) return `ratings.${letter}.${open}`
        if (keys.every((key) => row[key] === null)) return `ratings.${letter}.${keys[0]}`
      }
      return null
    }
  }
}

/** The answer of a whole draft, with nothing in it that its form does not ask for. */
export function bodyOf(form: Form, draft: Draft): AnswerBody {
  const body: AnswerBody = {}
  if (form.kind === 'choice' || draft.choice === 'both_bad') body.choice = draft.choice
  else if (form.kind === 'scale') body.scale = draft.scale
  else if (form.kind === 'ranking') body.ranking = draft.ranking
  else body.ratings = draft.ratings
  if (isPair(form) && form.criteria.length > 0) body.criteria = draft.criteria
  if (draft.reasons.length > 0) body.reasons = draft.reasons
  if (form.rationale !== 'off' && draft.rationale.trim() !== '') body.rationale = draft.rationale
  if (form.read_first) body.first_ratings = draft.first_ratings
  return body
}

/* ---- Words for answers */

const LEVELS: Key[][] = [
  [],
  ['scale.better'],
  ['scale.better', 'scale.much'],
  ['scale.slightly', 'scale.better', 'scale.much'],
]
const CHOICES = {
  left: 'task.choose.left',
  right: 'task.choose.right',
  tie: 'task.choose.tie',
  both_bad: 'task.choose.both_bad',
} as const

export const choiceText = (choice: Choice): string => t(CHOICES[choice])

/** A point of a scale, counted from A, as words: 1 of 5 is “A is much better”. */
export function pointText(point: number, points: number): string {
  const distance = point - (points + 1) / 2
  if (distance === 0) return t('task.choose.tie')
  const level = Math.ceil(Math.abs(distance))
  const key = LEVELS[Math.floor(points / 2)]?.[level - 1] ?? 'scale.better'
  return t(key as 'scale.better', { letter: distance < 0 ? 'A' : 'B' })
}

/** The main part of an answer in a few words. */
export function answerText(form: Form, body: AnswerBody): string {
  if (body.choice) return choiceText(body.choice)
  if (body.scale) return pointText(body.scale, form.points)
  if (body.ranking) return rankingText(body.ranking)
  return t('answer.rated')
}

export const rankingText = (ranking: string[][]): string => ranking.map((group) => group.join(' = ')).join(' > ')

/* ---- Rankings */

const without = (ranking: string[][], letter: string): string[][] =>
  ranking.map((group) => group.filter((other) => other !== letter)).filter((group) => group.length > 0)

/** At the end, or beside the last ones. A letter that has a place moves. */
export function place(ranking: string[][], letter: string, tied: boolean): string[][] {
  const rest = without(ranking, letter)
  const last = rest.at(-1)
  if (!tied || !last) return [...rest, [letter]]
  return [...rest.slice(0, -1), [...last, letter].sort()]
}

export function takeBack(ranking: string[][]): string[][] {
  const letter = ranking.at(-1)?.at(-1)
  return letter ? without(ranking, letter) : ranking
}

/** A step to the best (−1) or to the worst (1): out of its group, or past its neighbour. */
export function move(ranking: string[][], letter: string, step: -1 | 1): string[][] {
  const at = ranking.findIndex((group) => group.includes(letter))
  const group = ranking[at]
  if (!group) return ranking
  const rest = without(ranking, letter)
  const tied = group.length > 1
  const index = tied ? (step < 0 ? at : at + 1) : at + step
  if (index < 0 || index > rest.length) return ranking
  return [...rest.slice(0, index), [letter], ...rest.slice(index)]
}

/** Into the gap before the place at `index`, counted as the places stand now; on its own there. */
export function putBefore(ranking: string[][], letter: string, index: number): string[][] {
  const at = ranking.findIndex((group) => group.includes(letter))
  const leavesGap = at >= 0 && at < index && ranking[at]?.length === 1
  const rest = without(ranking, letter)
  const gap = leavesGap ? index - 1 : index
  return [...rest.slice(0, gap), [letter], ...rest.slice(gap)]
}

/** Make the groups at `index` and after it equal. */
export function join(ranking: string[][], index: number): string[][] {
  const [one, other] = [ranking[index], ranking[index + 1]]
  if (!one || !other) return ranking
  return [...ranking.slice(0, index), [...one, ...other].sort(), ...ranking.slice(index + 2)]
}

/** To a place from 1; an occupied one is shared where ties are allowed. Place 0 takes it out. */
export function placeAt(ranking: string[][], letter: string, rank: number, ties: boolean): string[][] {
  const rest = without(ranking, letter)
  if (rank === 0) return rest
  const index = Math.min(rank - 1, rest.length)
  const there = rest[index]
  if (ties && there) return rest.map((group) => (group === there ? [...group, letter].sort() : group))
  return [...rest.slice(0, index), [letter], ...rest.slice(index)]
}

export const placeOf = (ranking: string[][], letter: string): number =>
  1 + ranking.findIndex((group) => group.includes(letter))
