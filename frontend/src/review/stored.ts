/** Between the screen's words (left, right, A, B) and stored order (a, b), which adjudicators see unturned. */
import type { Form, SaidRequest } from 'src/api/schema'
import { choiceText, type Draft, emptyDraft, pointText, rankingText } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'

const STORED = { left: 'a', right: 'b', tie: 'tie', both_bad: 'tie' } as const
const SHOWN = { a: 'left', b: 'right', tie: 'tie' } as const

/** A dispute is decided by a choice of two, or by a ranking; rows and words are not asked for. */
export const rulingForm = (form: Form, size: number): Form => ({
  ...form,
  kind: size === 2 ? 'choice' : 'ranking',
  size,
  allow_tie: true,
  allow_both_bad: false,
  criteria: [],
  reasons: [],
  reasons_required: false,
  rationale: 'off',
  read_first: false,
})

export function said(draft: Draft, size: number): SaidRequest | null {
  if (size === 2) return draft.choice ? { choice: STORED[draft.choice] } : null
  if (draft.ranking.flat().length < size) return null
  return { ranking: draft.ranking.map((group) => group.map((letter) => letter.toLowerCase())) }
}

type Stored = Record<string, unknown> | null

export function draftOfStored(answer: Stored): Draft {
  const draft = emptyDraft()
  if (!answer) return draft
  const choice = answer.choice as keyof typeof SHOWN | undefined
  if (choice) draft.choice = SHOWN[choice]
  if (Array.isArray(answer.ranking)) draft.ranking = upper(answer.ranking as string[][])
  return draft
}

const upper = (ranking: string[][]): string[][] => ranking.map((group) => group.map((letter) => letter.toUpperCase()))

/** An answer in stored order, in a few words. */
export function storedText(answer: {
  choice?: unknown
  ranking?: unknown
  invalid?: unknown
  scale?: number | null
  points?: number | null
  both_bad?: boolean
}): string {
  if (answer.invalid) return t('adjudicate.invalid')
  if (answer.both_bad) return choiceText('both_bad')
  if (answer.scale && answer.points) return pointText(answer.scale, answer.points)
  if (Array.isArray(answer.ranking)) return rankingText(upper(answer.ranking as string[][]))
  const choice = answer.choice as keyof typeof SHOWN | undefined | null
  return choice && choice in SHOWN ? choiceText(SHOWN[choice]) : t('answer.rated')
}
