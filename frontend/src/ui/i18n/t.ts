/** Typed strings: `t('key', {param})`. A key, a parameter or a plural that is missing is a type error. */
import { en } from 'src/ui/i18n/en'
import type { enEvaluations } from 'src/ui/i18n/enEvaluations'
import type { enJobs } from 'src/ui/i18n/enJobs'
import type { enModels } from 'src/ui/i18n/enModels'
import type { enProject } from 'src/ui/i18n/enProject'
import type { enStatistics } from 'src/ui/i18n/enStatistics'

export const LOCALE = 'en'

type Plural = { one: string; other: string }
type Messages = typeof en &
  typeof enProject &
  typeof enStatistics &
  typeof enJobs &
  typeof enModels &
  typeof enEvaluations
export type Key = keyof Messages

type Names<S> = S extends `${string}{${infer Name}}${infer Rest}` ? Name | Names<Rest> : never
type Params<K extends Key> = Messages[K] extends string
  ? Names<Messages[K]>
  : Messages[K] extends Plural
    ? Names<Messages[K]['other']> | 'n'
    : never
type Args<K extends Key> = [Params<K>] extends [never] ? [] : [Record<Params<K>, string | number>]

/** A second language is a second file of this type. */
export type Translation = { [K in Key]: Messages[K] extends string ? string : Plural }

const plurals = new Intl.PluralRules(LOCALE)
const numbers = new Intl.NumberFormat(LOCALE)
const messages: Partial<Translation> = { ...en }

/** Strings that come with a page of their own. */
export function addMessages(more: Partial<Translation>): void {
  Object.assign(messages, more)
}

export function t<K extends Key>(key: K, ...args: Args<K>): string {
  const params: Record<string, string | number> = args[0] ?? {}
  const message: string | Plural = messages[key] ?? key
  const text =
    typeof message === 'string' ? message : plurals.select(Number(params.n)) === 'one' ? message.one : message.other
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = params[name]
    return typeof value === 'number' ? numbers.format(value) : String(value ?? '')
  })
}
