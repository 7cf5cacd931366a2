/** The languages hold the same strings: nothing is missing, left in English, or said by nobody. */
import { day, fixed, interval, measured, percent, typedNumber } from 'src/ui/format'
import { de } from 'src/ui/i18n/de'
import { deResearch } from 'src/ui/i18n/deResearch'
import { en } from 'src/ui/i18n/en'
import { enResearch } from 'src/ui/i18n/enResearch'
import { chooseLanguage, LANGUAGES, language, preferredLanguage, researchStrings, speak } from 'src/ui/i18n/languages'
import { t } from 'src/ui/i18n/t'
import { afterEach, expect, test } from 'vitest'

const SOURCES = import.meta.glob<string>(
  ['/src/**/*.{ts,tsx}', '!/src/**/*.test.{ts,tsx}', '!/src/ui/i18n/{en,de}*.ts'],
  {
    query: '?raw',
    import: 'default',
    eager: true,
  },
)
type Message = string | { one: string; other: string }
const ENGLISH: Record<string, Message> = { ...en, ...enResearch }
const GERMAN: Record<string, Message> = { ...de, ...deResearch }

/** What German has from English, or both from elsewhere: names, and terms of the field. */
const SAME = [
  'Best of n',
  'DPO',
  'FeedME',
  'GRPO',
  'KTO',
  'Online DPO',
  'PPO',
  'Quark',
  'RLOO',
  'Score {score}',
  'Job {n}',
  'Link {number}, {role}',
  'v{before} → v{after}',
  'Import',
  'Playground',
  'Adapter',
  'Aggregation',
  'Alpha',
  'Alpha, ordinal',
  'Annotator',
  'Batch',
  'Bradley–Terry',
  'CHES {value}',
  'CPU',
  'CSV',
  'Chat',
  'Checkpoint',
  'Checkpoints',
  'Commit',
  'Completion {letter}',
  'Completions',
  'Dawid–Skene',
  'Definition',
  'Drift',
  'Elo, {name} = 1000',
  'Evaluation',
  'Evaluation {number}',
  'Experiment',
  'Filter',
  'GLAD',
  'GPU',
  'Gold',
  'Header',
  'Hugging Face',
  'Job',
  'Job #{number}',
  'Jobs',
  'Name',
  'Person',
  'Policies',
  'Policy',
  'Problem',
  'Prompt',
  'Prompts',
  'Sampling',
  'Seed',
  'Seeds',
  'Server',
  'Snapshot',
  'Snapshot v{number}',
  'Snapshots',
  'Status',
  'System',
  'TensorBoard',
  'Test',
  'Text (Markdown)',
  'Token',
  'Tokens',
  'Top-p',
  'Training',
  'Version',
  'Webhooks',
  'Winnow',
  'curl',
  'n {n}',
  'tar',
  'zip',
  '{lane}, {model}',
  '{name}, {size}',
  '{name}: {state}',
  '{role}, {n}',
  '{size} px',
  '{title}, {at}',
]
const textsOf = (message: Message | undefined): string[] =>
  message === undefined ? [] : typeof message === 'string' ? [message] : [message.one, message.other]
const paramsOf = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map(([name]) => name).toSorted()

afterEach(async () => {
  localStorage.clear()
  await speak('en')
})

test('every string is said somewhere', () => {
  const source = Object.values(SOURCES).join('\n')
  const literal = new Set([...source.matchAll(/['"]([\w.]+)['"]/g)].map(([, key]) => key))
  // A code of the server's at the end of a key may hold points: `audit.did.${action}`.
  const made = [...source.matchAll(/`(\w+\.[\w.]*(?:\$\{[^}`]*\}[\w.]*)+)`/g)].map(
    ([, text = '']) =>
      new RegExp(
        `^${text
          .replaceAll('.', '\\.')
          .replace(/\$\{[^}]*action\}$/, '[\\w.]+')
          .replace(/\$\{[^}]*\}/g, '\\w+')}$`,
      ),
  )
  const isSaid = (key: string) => literal.has(key) || made.some((pattern) => pattern.test(key))
  expect(Object.keys(ENGLISH).filter((key) => !isSaid(key))).toEqual([])
})

test('no string is in both parts', () => {
  expect(Object.keys(en).filter((key) => key in enResearch)).toEqual([])
})

test('what annotators read is in the part that they load', () => {
  const theirs = /^\/src\/(?:annotate|app\/(?!ResearchFrame)|ui\/(?:answer|content|keys))/
  const sources = Object.entries(SOURCES).filter(([path]) => theirs.test(path))
  const said = sources.flatMap(([, source]) => [...source.matchAll(/'([\w.]+)'/g)].map(([, key = '']) => key))
  expect(said).toContain('task.undo')
  expect(said.filter((key) => key in enResearch)).toEqual([])
})

test('both languages have the same strings', () => {
  expect(Object.keys(GERMAN).toSorted()).toEqual(Object.keys(ENGLISH).toSorted())
})

test('each string has the parameters of the other language', () => {
  const differing = Object.keys(ENGLISH).filter((key) => {
    const wanted = [...new Set(textsOf(ENGLISH[key]).flatMap(paramsOf))].toSorted().join()
    return textsOf(GERMAN[key]).some((text) => {
      const found = [...new Set(paramsOf(text))].join()
      // The singular may leave its number out.
      return (
        found !== wanted &&
        !(typeof ENGLISH[key] === 'object' && wanted.split(',').every((name) => found.includes(name) || name === '{n}'))
      )
    })
  })
  expect(differing).toEqual([])
})

test('nothing is left in English', () => {
  const same = Object.keys(ENGLISH).filter((key) => textsOf(ENGLISH[key]).join('|') === textsOf(GERMAN[key]).join('|'))
  const words = new Set(same.flatMap((key) => textsOf(ENGLISH[key])))
  expect([...words].filter((text) => !SAME.includes(text)).toSorted()).toEqual([])
  expect(SAME.filter((text) => !words.has(text))).toEqual([])
})

test('German speaks to people as Sie, with German quotation marks', () => {
  const texts = Object.values(GERMAN).flatMap(textsOf)
  expect(texts.filter((text) => /\b(du|dein|deine|deinen|dir|dich)\b|[“][^„]*”|"|'/i.test(text))).toEqual([])
})

test('the language is the chosen one, else one of the browser, else English', async () => {
  expect(preferredLanguage()).toBe('en')
  localStorage.setItem('winnow-language', 'xx')
  expect(preferredLanguage()).toBe('en')
  await chooseLanguage('en')
  expect([preferredLanguage(), language(), document.documentElement.lang]).toEqual(['en', 'en', 'en'])
})

test('a chosen language is spoken at once, in numbers too, and kept', async () => {
  await researchStrings()
  await chooseLanguage('de')
  expect([preferredLanguage(), language(), document.documentElement.lang]).toEqual(['de', 'de', 'de'])
  expect([t('models.current'), t('home.votes', { n: 1200 })]).toEqual(['Aktuell', '1.200 Stimmen'])
  expect([fixed(-0.5), percent(0.25), measured(1.23456), interval(fixed(0.1), fixed(0.2))]).toEqual([
    '−0,50',
    '25 %',
    '1,235',
    '[0,10; 0,20]',
  ])
  expect(day(Date.parse('2026-11-22T12:00:00Z'))).toBe('22.11.2026')
  expect([typedNumber('0,5'), typedNumber('0.5'), typedNumber(' ')]).toEqual([0.5, 0.5, Number.NaN])
  await speak('en')
  expect([t('models.current'), fixed(-0.5), typedNumber('0,5')]).toEqual(['Current', '−0.50', Number.NaN])
  expect(LANGUAGES).toEqual(['en', 'de'])
})
