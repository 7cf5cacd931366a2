/** Names of alarms in words, where only their codes are at hand. */
import { hasWords, t } from 'src/ui/i18n/t'

/** An alarm of a newer server is shown by its code rather than hidden. */
export function alarmTitle(name: string): string {
  const key = `alarm.name.${name}`
  return hasWords(key) ? t(key as `alarm.name.length_bias`) : name.replaceAll('_', ' ')
}

/** The names of what is open, most often first. */
export const alarmNames = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([name, n]) => (n > 1 ? `${alarmTitle(name)} ×${n}` : alarmTitle(name)))
    .join(', ')

export const alarmTotal = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((sum, n) => sum + n, 0)
