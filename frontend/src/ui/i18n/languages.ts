/** The languages of the pages: which one this browser wants, loading its strings, and changing it in place. */
import { setLocale } from 'src/ui/i18n/locale'
import { setMessages, type Translation } from 'src/ui/i18n/t'

type Strings = Partial<Translation>
/** Strings come in two parts, so that annotators do not load those of the researcher's pages. */
type Part = 'first' | 'research'

const LOADERS = {
  en: {
    name: 'English',
    first: async (): Promise<Strings> => (await import('src/ui/i18n/en')).en,
    research: async (): Promise<Strings> => (await import('src/ui/i18n/enResearch')).enResearch,
  },
  de: {
    name: 'Deutsch',
    first: async (): Promise<Strings> => (await import('src/ui/i18n/de')).de,
    research: async (): Promise<Strings> => (await import('src/ui/i18n/deResearch')).deResearch,
  },
}
export type Language = keyof typeof LOADERS

const isLanguage = (name: string | null | undefined): name is Language => Object.keys(LOADERS).includes(name ?? '')
export const LANGUAGES = Object.keys(LOADERS).filter(isLanguage)
/** Each in its own words, whatever the page speaks now. */
export const nameOf = (language: Language): string => LOADERS[language].name

const STORED = 'winnow-language'
const baseOf = (tag: string): string => tag.split('-')[0]?.toLowerCase() ?? ''

let spoken: Language = 'en'
const wanted = new Set<Part>(['first'])
const loaded = new Map<string, Strings>()
const listeners = new Set<() => void>()

export const language = (): Language => spoken

export function onLanguage(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** What was chosen in this browser; else the first of the browser's languages that there is; else English. */
export function preferredLanguage(): Language {
  let stored: string | null = null
  try {
    stored = localStorage.getItem(STORED)
  } catch {
    // Storage may be forbidden; the browser's languages need none.
  }
  if (isLanguage(stored)) return stored
  return navigator.languages.map(baseOf).find(isLanguage) ?? 'en'
}

async function load(name: Language, part: Part): Promise<void> {
  const key = `${name} ${part}`
  if (!loaded.has(key)) loaded.set(key, await LOADERS[name][part]())
}

function show(): void {
  setMessages(Object.assign({}, ...[...wanted].map((part) => loaded.get(`${spoken} ${part}`))))
}

/** Loads what the open pages need and speaks it from then on. Fails, and changes nothing, when it cannot be loaded. */
export async function speak(name: Language): Promise<void> {
  await Promise.all([...wanted].map((part) => load(name, part)))
  spoken = name
  setLocale(navigator.languages.find((tag) => baseOf(tag) === name) ?? name)
  document.documentElement.lang = name
  show()
  for (const listener of listeners) listener()
}

/** The strings of the researcher's pages, before the first of them is shown. */
export async function researchStrings(): Promise<void> {
  wanted.add('research')
  // Another language may have been chosen while they came.
  while (!loaded.has(`${spoken} research`)) await load(spoken, 'research')
  show()
}

/** As `speak`, and from the next visit on too. */
export async function chooseLanguage(name: Language): Promise<void> {
  try {
    localStorage.setItem(STORED, name)
  } catch {
    // The choice lasts as long as the page.
  }
  await speak(name)
}
