import type { Gold } from 'src/api/schema'
import { choiceText, rankingText } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'

export type Use = Gold['use']
export const USES: Use[] = ['hidden', 'practice', 'qualification']
export const optionsOfUse = (): [string, string][] => USES.map((use) => [use, t(`gold.use.${use}`)])

const SHOWN = { a: 'left', b: 'right', tie: 'tie' } as const

/** A gold answer, which is in stored order, in a few words. */
export function goldText({ choice, ranking, worst }: Gold['answer']): string {
  if (worst) return t('gold.worst', { letter: worst.toUpperCase() })
  if (ranking) return rankingText(ranking.map((group) => group.map((letter) => letter.toUpperCase())))
  return choice && choice in SHOWN ? choiceText(SHOWN[choice as keyof typeof SHOWN]) : (choice ?? '')
}
