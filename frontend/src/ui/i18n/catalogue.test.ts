/** The languages hold the same strings: nothing is missing, left in English, or said by nobody. */
import { en } from 'src/ui/i18n/en'
import { enResearch } from 'src/ui/i18n/enResearch'
import { chooseLanguage, LANGUAGES, language, preferredLanguage, researchStrings, speak } from 'src/ui/i18n/languages'
import { t } from 'src/ui/i18n/t'
import { afterEach, expect, test } from 'vitest'

const SOURCES = import.meta.glob<string>(['/src/**/*.{ts,tsx}', '!/src/**/*.test.{ts,tsx}', '!/src/ui/i18n/en*.ts'], {
  query: '?raw',
  import: 'default',
  eager: true,
})
type Message = string | { one: string; other: string }
const ENGLISH: Record<string, Message> = { ...en, ...enResearch }

afterEach(async () => {
  localStorage.clear()
  await speak('en')
})

test('every string is said somewhere', () => {
  const source = Object.values(SOURCES).join('\n')
  const literal = new Set([...source.matchAll(/['"]([\w.]+)['"]/g)].map(([, key]) => key))
  const made = [...source.matchAll(/`(\w+\.[\w.]*(?:\$\{[^}`]*\}[\w.]*)+)`/g)].map(
    ([, text = '']) => new RegExp(`^${text.replaceAll('.', '\\.').replace(/\$\{[^}]*\}/g, '\\w+')}$`),
  )
  const isSaid = (key: string) => literal.has(key) || made.some((pattern) => pattern.test(key))
  expect(Object.keys(ENGLISH).filter((key) => !isSaid(key))).toEqual([])
})

test('no string is in both parts', () => {
  expect(Object.keys(en).filter((key) => key in enResearch)).toEqual([])
})

test('the language is the chosen one, else one of the browser, else English', async () => {
  expect(preferredLanguage()).toBe('en')
  localStorage.setItem('winnow-language', 'xx')
  expect(preferredLanguage()).toBe('en')
  await chooseLanguage('en')
  expect([preferredLanguage(), language(), document.documentElement.lang]).toEqual(['en', 'en', 'en'])
  await researchStrings()
  expect(LANGUAGES).toContain('en')
  expect(t('models.current')).toBe('Current')
})
