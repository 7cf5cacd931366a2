/** What a project asks before an answer counts: a while of attention, and every response read to its end. */
import type { Task } from 'src/api/schema'
import { listed } from 'src/ui/i18n/listed'
import { t } from 'src/ui/i18n/t'

/** A response whose end was not on the screen; hidden if nothing of it is there now, as behind the tab of another. */
export type Unread = { letter: string; hidden: boolean }

export type Attention = {
  /** The completion that is read alone now, or null. */
  single: number | null
  /** Spent on this task so far. */
  ms: number
  unread: readonly Unread[]
}

/** Why no answer is taken yet, or null. What was answered before, and taken back, was read before. */
export function whyHeld(task: Task, { single, ms, unread }: Attention): string | null {
  if (task.answer) return null
  if (task.read_to_end && unread.length > 0) {
    const shown = single === null ? task.completions.length : 1
    const letters = listed(unread.map(({ letter }) => letter))
    if (shown === 1) return t('held.alone', { letter: letters })
    const below = shown === 2 && !unread.some(({ hidden }) => hidden)
    return below ? t('held.below', { letters, n: unread.length }) : t('held.unseen', { letters })
  }
  const left = Math.ceil(task.min_reading_seconds - ms / 1000)
  // One that is read alone only goes on to the next: the time counts for the answer.
  return single === null && left > 0 ? t('held.time', { least: task.min_reading_seconds, left }) : null
}
