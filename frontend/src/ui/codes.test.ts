import { cautionText, reasonText, shortReason } from 'src/ui/format'
import { de } from 'src/ui/i18n/de'
import { deResearch } from 'src/ui/i18n/deResearch'
import { en } from 'src/ui/i18n/en'
import { enResearch } from 'src/ui/i18n/enResearch'
import { expect, test } from 'vitest'

type Schema = { components: { schemas: Record<string, { enum?: string[] }> } }

const [schema] = Object.values(import.meta.glob<Schema>('/openapi.json', { import: 'default', eager: true }))
const codesOf = (name: string): string[] => schema?.components.schemas[name]?.enum ?? []
const isBare = (code: string, words: string) => words === code.replaceAll('_', ' ') || words.includes('.')

test('every reason of the schema ends a sentence in words', () => {
  expect(codesOf('UndefinedEnum')).toContain('too_few_groups')
  expect(codesOf('UndefinedEnum').filter((code) => isBare(code, reasonText(code)))).toEqual([])
})

test('every reason of the schema has a few words for tables', () => {
  const short = codesOf('UndefinedEnum').map((code) => shortReason(code))
  expect(short.filter((words) => words.split(' ').length > 3 || words.endsWith('.'))).toEqual([])
  expect(new Set(short).size).toBe(short.length)
})

test('every warning of the schema is a sentence', () => {
  expect(codesOf('WarningsEnum')).toContain('few_groups')
  expect(codesOf('WarningsEnum').filter((code) => !/^[A-Z].* .*\.$/.test(cautionText(code)))).toEqual([])
})

test('a code of a newer server is shown rather than hidden', () => {
  expect([reasonText('brand_new'), cautionText('brand_new')]).toEqual(['brand new', 'brand new'])
})

test('every action that the server writes into its log has words, and no others have', () => {
  const actions = codesOf('AuditEventActionEnum').toSorted()
  expect(actions).toContain('prompt.erased')
  for (const messages of [
    { ...en, ...enResearch },
    { ...de, ...deResearch },
  ]) {
    const said = Object.keys(messages).filter((key) => key.startsWith('audit.did.'))
    expect(said.map((key) => key.slice('audit.did.'.length)).toSorted()).toEqual(actions)
  }
})
