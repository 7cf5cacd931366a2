/** Numbers, times and estimates as people read them. The only place that knows how a number looks. */
import type { UndefinedEnum, WarningsEnum } from 'src/api/schema'
import { perLocale } from 'src/ui/i18n/locale'
import { type Key, t } from 'src/ui/i18n/t'

const whole = perLocale((tag) => new Intl.NumberFormat(tag, { maximumFractionDigits: 0 }))
const compact = perLocale((tag) => new Intl.NumberFormat(tag, { notation: 'compact', maximumFractionDigits: 1 }))
const significant = perLocale((tag) => new Intl.NumberFormat(tag, { maximumSignificantDigits: 6, useGrouping: false }))
const date = perLocale((tag) => new Intl.DateTimeFormat(tag, { dateStyle: 'medium' }))
const absolute = perLocale((tag) => new Intl.DateTimeFormat(tag, { dateStyle: 'medium', timeStyle: 'short' }))
const relative = perLocale((tag) => new Intl.RelativeTimeFormat(tag, { numeric: 'auto', style: 'short' }))
/** By the number of digits after the point. */
const decimals = Array.from({ length: 5 }, (_, digits) =>
  perLocale(
    (tag) =>
      new Intl.NumberFormat(tag, {
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
        useGrouping: false,
      }),
  ),
)
const decimalMark = perLocale(
  (tag) => new Intl.NumberFormat(tag).formatToParts(0.5).find(({ type }) => type === 'decimal')?.value ?? '.',
)
export const DASH = '–'

export const count = (value: number): string => whole().format(value)
export const short = (value: number): string => compact().format(value)

/** With a minus sign: what `Intl` writes is a hyphen. */
const signed = (text: string): string => text.replace(/^-/, '−')

const withDigits = (value: number, digits: number): string =>
  signed(decimals[digits]?.().format(value) ?? String(value))

function exponential(value: number, digits: number): string {
  const [mantissa, exponent] = value.toExponential(digits).replace('e+', 'e').split('e')
  return `${withDigits(Number(mantissa), digits)}e${exponent}`
}

/** A measured number: four significant digits, exponent only where digits would not fit. */
export function measured(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return DASH
  if (value === 0) return '0'
  if (!Number.isFinite(value)) return signed(whole().format(value))
  const size = Math.abs(value)
  if (size >= 1e6 || size < 1e-4) return exponential(value, 2)
  if (Number.isInteger(value)) return signed(whole().format(value))
  return withDigits(value, digitsOf(size))
}

/** Digits after the point that leave about four of a number of this size. */
const digitsOf = (size: number): number => (size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : 4)

/** Measured numbers that are read beside each other, such as a value and its interval: all with the same digits. */
export function measuredTogether(values: readonly number[]): string[] {
  const size = Math.max(...values.map(Math.abs))
  if (size >= 1e6 || size < 1e-4 || values.every(Number.isInteger)) return values.map(measured)
  return values.map((value) => fixed(value, digitsOf(size)))
}

/** A round number at an axis. */
export function tickText(tick: number): string {
  const size = Math.abs(tick)
  if (size < 1e-12) return '0'
  if (size >= 1e4) return signed(short(tick))
  if (size >= 1e-3) return signed(significant().format(tick))
  const [mantissa, exponent] = Number(tick.toPrecision(4)).toExponential().split('e')
  return signed(`${significant().format(Number(mantissa))}e${exponent}`)
}

/** So many digits after the point, and no zero below zero. */
export const fixed = (value: number, digits = 2): string => withDigits(Number(value.toFixed(digits)) + 0, digits)

/** A share as percent without decimals, for tight places. */
export const percent = (share: number): string => `${fixed(share * 100, 0)} %`

/** Two numbers, already written, as an interval: where the comma is in the numbers, a semicolon is between them. */
export const interval = (low: string, high: string): string => t('estimate.range', { low, high })

/** What a person typed as a number, by the reader's decimal mark or by a point, with either minus; NaN for what is none. */
export function typedNumber(text: string): number {
  const trimmed = text.trim()
  return trimmed === '' ? Number.NaN : Number(trimmed.replace(decimalMark(), '.').replace('−', '-'))
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return DASH
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let size = value
  let unit = 0
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000
    unit += 1
  }
  return `${withDigits(size, unit === 0 || size >= 100 ? 0 : 1)} ${units[unit]}`
}

/** "38 s", "4 min 10 s", "2 h 10 min", "3 d 4 h". */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return DASH
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  if (s < 600 && s % 60 !== 0) return `${Math.floor(s / 60)} min ${s % 60} s`
  if (s < 3600) return `${Math.round(s / 60)} min`
  if (s < 86_400) {
    const minutes = Math.round((s % 3600) / 60)
    return minutes === 60 || minutes === 0 ? `${Math.round(s / 3600)} h` : `${Math.floor(s / 3600)} h ${minutes} min`
  }
  const hours = Math.round((s % 86_400) / 3600)
  return hours === 0 || hours === 24 ? `${Math.round(s / 86_400)} d` : `${Math.floor(s / 86_400)} d ${hours} h`
}

export function exactTime(iso: string): string {
  return absolute().format(new Date(iso))
}

/** A date without its time, given in ms of the epoch. */
export const day = (at: number): string => date().format(at)

export function relativeTime(iso: string, now: number): string {
  const seconds = (new Date(iso).getTime() - now) / 1000
  const size = Math.abs(seconds)
  if (size < 45) return t('time.justNow')
  if (size < 3600) return relative().format(Math.round(seconds / 60), 'minute')
  if (size < 86_400) return relative().format(Math.round(seconds / 3600), 'hour')
  if (size < 30 * 86_400) return relative().format(Math.round(seconds / 86_400), 'day')
  return date().format(new Date(iso))
}

export type EstimateLike = {
  value: number | null
  low: number | null
  high: number | null
  n: number
  reason: string | null
  warnings?: readonly string[]
}
export type EstimateUnit = 'percent' | 'coefficient'
export type EstimateText = {
  value: string
  range: string | null
  /** Why there is no value, or no interval around it. */
  why: string | null
}

const wordsOf = (words: Readonly<Record<string, Key | undefined>>, code: string): Key | undefined => words[code]

/** A code that has no words here is a type error. */
const REASONS: Record<UndefinedEnum, Key> = {
  no_votes: 'reason.no_votes',
  no_overlap: 'reason.no_overlap',
  too_few_common: 'reason.too_few_common',
  one_class: 'reason.one_class',
  one_annotator: 'reason.one_annotator',
  tied_top: 'reason.tied_top',
  not_connected: 'reason.not_connected',
  separated: 'reason.separated',
  below_chance: 'reason.below_chance',
  too_few_groups: 'reason.too_few_groups',
  zero_weight: 'reason.zero_weight',
  sides_not_randomised: 'reason.sides_not_randomised',
}

export function reasonText(reason: string | null): string {
  const key = wordsOf(REASONS, reason ?? '')
  if (key) return t(key)
  // A reason of a newer server is shown by its code rather than hidden.
  return reason ? reason.replaceAll('_', ' ') : t('reason.unknown')
}

const SHORT_REASONS: Record<UndefinedEnum, Key> = {
  no_votes: 'reason.short.no_votes',
  no_overlap: 'reason.short.no_overlap',
  too_few_common: 'reason.short.too_few_common',
  one_class: 'reason.short.one_class',
  one_annotator: 'reason.short.one_annotator',
  tied_top: 'reason.short.tied_top',
  not_connected: 'reason.short.not_connected',
  separated: 'reason.short.separated',
  below_chance: 'reason.short.below_chance',
  too_few_groups: 'reason.short.too_few_groups',
  zero_weight: 'reason.short.zero_weight',
  sides_not_randomised: 'reason.short.sides_not_randomised',
}

/** The same in two or three words, for tables. */
export function shortReason(reason: string | null): string {
  const key = wordsOf(SHORT_REASONS, reason ?? '')
  return key ? t(key) : reasonText(reason)
}

/** Warnings, and reasons that a fit gives as warnings because a prior lets it go on. */
const CAUTIONS: Record<WarningsEnum | 'not_connected' | 'separated', Key> = {
  not_converged: 'caution.not_converged',
  few_groups: 'caution.few_groups',
  few_votes: 'caution.few_votes',
  no_ties: 'caution.no_ties',
  clipped: 'caution.clipped',
  not_connected: 'caution.not_connected',
  separated: 'caution.separated',
}

/** What to know about a figure that does exist, as a sentence. */
export function cautionText(code: string): string {
  const key = wordsOf(CAUTIONS, code)
  return key ? t(key) : code.replaceAll('_', ' ')
}

const SHORT_CAUTIONS: Partial<Record<WarningsEnum, Key>> = {
  not_converged: 'caution.short.not_converged',
  few_groups: 'caution.short.few_groups',
  few_votes: 'caution.short.few_votes',
}

/** The same in two words, for tables; empty where a table need not say it. */
export function shortCaution(code: string): string {
  const key = wordsOf(SHORT_CAUTIONS, code)
  return key ? t(key) : ''
}

/** Value and interval with the same digits; an undefined value carries the reason and never NaN. */
export function estimateText(estimate: EstimateLike, unit: EstimateUnit): EstimateText {
  const { value, low, high, reason } = estimate
  if (value === null || !Number.isFinite(value)) {
    return { value: DASH, range: null, why: t('estimate.undefined', { reason: reasonText(reason) }) }
  }
  const digits = (x: number) => (unit === 'percent' ? fixed(x * 100, 1) : fixed(x, 3))
  const shown = unit === 'percent' ? `${digits(value)} %` : digits(value)
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) {
    return { value: shown, range: null, why: reason ? t('estimate.noInterval', { reason: reasonText(reason) }) : null }
  }
  return { value: shown, range: interval(digits(low), digits(high)), why: null }
}

/** The first characters of a hash, enough to tell two apart by eye. */
export const shortHash = (hash: string): string => hash.replace(/^sha256:/, '').slice(0, 12)
