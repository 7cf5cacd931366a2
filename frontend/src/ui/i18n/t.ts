/** Typed strings: `t('key', {param})`. A key, a parameter or a plural that is missing is a type error. */
import type { en } from 'src/ui/i18n/en'
import type { enResearch } from 'src/ui/i18n/enResearch'
import { perLocale } from 'src/ui/i18n/locale'

type Plural = { one: string; other: string }
type Messages = typeof en & typeof enResearch
export type Key = keyof Messages

type Names<S> = S extends `${string}{${infer Name}}${infer Rest}` ? Name | Names<Rest> : never
type Params<K extends Key> = Messages[K] extends string
  ? Names<Messages[K]>
  : Messages[K] extends Plural
    ? Names<Messages[K]['other']> | 'n'
    : never
type Args<K extends Key> = [Params<K>] extends [never] ? [] : [Record<Params<K>, string | number>]

/** What the same strings are in another language: each file of it has this type of its English one. */
export type TranslationOf<M> = { readonly [K in keyof M]: M[K] extends string ? string : Plural }
export type Translation = TranslationOf<Messages>

const plurals = perLocale((tag) => new Intl.PluralRules(tag))
const numbers = perLocale((tag) => new Intl.NumberFormat(tag))
let messages: Partial<Translation> = {}

/** From now on all strings are these; `languages.ts` calls it when they have been loaded. */
export function setMessages(all: Partial<Translation>): void {
  messages = all
}

/** Whether a key that was made of a code of the server's has words. */
export const hasWords = (key: string): key is Key => key in messages

/** Not for the top level of a module: it would keep the language in which the module was loaded. */
export function t<K extends Key>(key: K, ...args: Args<K>): string {
  const params: Record<string, string | number> = args[0] ?? {}
  const message: string | Plural = messages[key] ?? key
  const text =
    typeof message === 'string' ? message : plurals().select(Number(params.n)) === 'one' ? message.one : message.other
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = params[name]
    return typeof value === 'number' ? numbers().format(value) : String(value ?? '')
  })
}
