/** Every plain setting of a project: what it is called, how it is edited, and which belong together. */
import { tickText, typedNumber } from 'src/ui/format'
import type { Key } from 'src/ui/i18n/t'

export type Setting = {
  name: string
  kind: 'text' | 'whole' | 'share' | 'flag' | 'optional' | 'optionalShare' | { choices: [string, Key][] }
  label: Key
  help?: Key
}

const AGGREGATORS: [string, Key][] = [
  ['dawid_skene', 'aggregator.dawid_skene'],
  ['majority', 'aggregator.majority'],
]
const OVERLAP_RULES: [string, Key][] = [
  ['fixed', 'settings.rule.fixed'],
  ['adaptive', 'settings.rule.adaptive'],
]

export const GROUPS: { title: Key; settings: Setting[] }[] = [
  {
    title: 'settings.general',
    settings: [
      { name: 'name', kind: 'text', label: 'settings.name' },
      { name: 'question', kind: 'text', label: 'settings.question', help: 'settings.question.help' },
    ],
  },
  {
    title: 'settings.assignment',
    settings: [
      { name: 'overlap_rule', kind: { choices: OVERLAP_RULES }, label: 'settings.overlap_rule' },
      { name: 'overlap', kind: 'whole', label: 'settings.overlap', help: 'settings.overlap.help' },
      { name: 'min_votes', kind: 'whole', label: 'settings.min_votes' },
      { name: 'max_votes', kind: 'whole', label: 'settings.max_votes' },
      { name: 'stop_at', kind: 'share', label: 'settings.stop_at', help: 'settings.stop_at.help' },
      { name: 'full_share', kind: 'share', label: 'settings.full_share', help: 'settings.full_share.help' },
      { name: 'lease_minutes', kind: 'whole', label: 'settings.lease_minutes' },
      { name: 'finish_started', kind: 'flag', label: 'settings.finish_started' },
      { name: 'person_cap', kind: 'optional', label: 'settings.person_cap', help: 'settings.cap.help' },
      { name: 'vote_cap', kind: 'optional', label: 'settings.vote_cap', help: 'settings.cap.help' },
      {
        name: 'aggregator',
        kind: { choices: AGGREGATORS },
        label: 'settings.aggregator',
        help: 'settings.aggregator.help',
      },
      { name: 'dispute_below', kind: 'share', label: 'settings.dispute_below', help: 'settings.dispute_below.help' },
      { name: 'expert_votes', kind: 'whole', label: 'settings.expert_votes', help: 'settings.expert_votes.help' },
      { name: 'flag_limit', kind: 'whole', label: 'settings.flag_limit', help: 'settings.flag_limit.help' },
    ],
  },
  {
    title: 'settings.reading',
    settings: [
      {
        name: 'min_reading_seconds',
        kind: 'whole',
        label: 'settings.min_reading_seconds',
        help: 'settings.min_reading_seconds.help',
      },
      { name: 'read_to_end', kind: 'flag', label: 'settings.read_to_end', help: 'settings.read_to_end.help' },
    ],
  },
  {
    title: 'settings.quality',
    settings: [
      { name: 'gold_share', kind: 'share', label: 'settings.gold_share', help: 'settings.gold_share.help' },
      { name: 'repeat_share', kind: 'share', label: 'settings.repeat_share', help: 'settings.repeat_share.help' },
      { name: 'repeat_after', kind: 'whole', label: 'settings.repeat_after', help: 'settings.repeat_after.help' },
      { name: 'feedback_every', kind: 'whole', label: 'settings.feedback_every', help: 'settings.feedback_every.help' },
      { name: 'pause_below', kind: 'optionalShare', label: 'settings.pause_below', help: 'settings.pause_below.help' },
      { name: 'pause_min_gold', kind: 'whole', label: 'settings.pause_min_gold' },
    ],
  },
  {
    title: 'settings.qualification',
    settings: [
      { name: 'confirm_guideline', kind: 'flag', label: 'settings.confirm_guideline' },
      { name: 'practice_items', kind: 'whole', label: 'settings.practice_items' },
      { name: 'qualification_items', kind: 'whole', label: 'settings.qualification_items', help: 'settings.none.help' },
      { name: 'pass_mark', kind: 'share', label: 'settings.pass_mark' },
      { name: 'attempts_allowed', kind: 'whole', label: 'settings.attempts_allowed' },
      { name: 'retry_hours', kind: 'whole', label: 'settings.retry_hours' },
    ],
  },
]

/** A value of the server as its field shows it; shares are percent on the screen. */
export function shown({ kind }: Setting, value: unknown): string {
  if (value === null || value === undefined) return ''
  if (kind === 'share' || kind === 'optionalShare') return tickText(Math.round(Number(value) * 1000) / 10)
  return String(value)
}

/** What a field holds, as the server takes it. */
export function stored({ kind }: Setting, text: string): unknown {
  if (kind === 'flag') return text === 'true'
  if (kind === 'text' || typeof kind === 'object') return text
  if (text.trim() === '' && (kind === 'optional' || kind === 'optionalShare')) return null
  // What is no number is sent as it is, so that the server names the field.
  const number = typedNumber(text)
  if (Number.isNaN(number)) return text
  return kind === 'share' || kind === 'optionalShare' ? number / 100 : number
}
