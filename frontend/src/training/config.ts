/** A run's config as a form and a table need it: by dotted path; and what was typed as what the server expects. */

import type { Field } from 'src/api/schema'
import { typedNumber } from 'src/ui/format'

export type Config = Record<string, unknown>
/** What a person typed, by the path of the setting. */
export type Draft = Readonly<Record<string, string>>

/** What an address asks for: `optim.learning_rate=2e-5`, a setting each. */
export const draftOf = (asked: readonly string[]): Draft =>
  Object.fromEntries(
    asked.flatMap((text): [string, string][] => {
      const place = text.indexOf('=')
      return place > 0 ? [[text.slice(0, place), text.slice(place + 1)]] : []
    }),
  )

const isPlain = (value: unknown): value is Config =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** `{optim: {learning_rate: 1}}` as `[['optim.learning_rate', 1]]`. */
export function flatten(config: Config, prefix = ''): [string, unknown][] {
  return Object.entries(config).flatMap(([name, value]): [string, unknown][] =>
    isPlain(value) && Object.keys(value).length > 0 ? flatten(value, `${prefix}${name}.`) : [[prefix + name, value]],
  )
}

export function nest(values: readonly (readonly [string, unknown])[]): Config {
  const config: Config = {}
  for (const [path, value] of values) {
    const parts = path.split('.')
    let place = config
    for (const part of parts.slice(0, -1)) {
      const next = place[part]
      const inner: Config = isPlain(next) ? next : {}
      place[part] = inner
      place = inner
    }
    place[parts.at(-1) ?? path] = value
  }
  return config
}

/** The value at a dotted path, undefined where the config has no such place. */
export function valueAt(config: Config, path: string): unknown {
  let value: unknown = config
  for (const part of path.split('.')) {
    if (!isPlain(value)) return undefined
    value = value[part]
  }
  return value
}

/** As the server lays one over another: objects key by key, all else whole. */
export function merge(base: Config, over: Config): Config {
  const merged: Config = { ...base }
  for (const [name, value] of Object.entries(over)) {
    const under = merged[name]
    merged[name] = isPlain(under) && isPlain(value) ? merge(under, value) : value
  }
  return merged
}

/** Of a machine's settings, those of parts that the method has. */
export const fitting = (machine: Config, config: Config): Config =>
  Object.fromEntries(Object.entries(machine).filter(([part]) => part in config))

export const shown = (value: unknown): string =>
  value === null || value === undefined ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value)

/** A value as a table shows it: nothing is told from the text "null". */
export const asValue = (value: unknown): string => (value === null || value === undefined ? '–' : shown(value))

/** The same as a form holds it: a list with commas between, a part by whether it is there. */
export function asText(field: Field, value: unknown): string {
  if (field.type === 'section') return String(value !== null && value !== undefined && value !== false)
  return Array.isArray(value) ? value.join(', ') : shown(value)
}

const texts = (text: string): string[] =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')

/** What a person typed as what the server expects. Text that is no number is sent as it is: the server names the fault. */
export function typed(field: Field, text: string): unknown {
  const trimmed = text.trim()
  switch (field.type) {
    case 'boolean':
      return trimmed === 'true'
    case 'section':
      return trimmed === 'true' ? {} : null
    case 'number':
    case 'integer':
      return trimmed === '' ? null : Number.isFinite(typedNumber(trimmed)) ? typedNumber(trimmed) : trimmed
    case 'texts':
      return texts(trimmed)
    default:
      return trimmed === '' ? null : trimmed
  }
}

/** A part that is off takes its settings with it. */
export function isHidden(field: Field, fields: readonly Field[], base: Config, draft: Draft): boolean {
  return fields.some(
    (part) =>
      part.type === 'section' &&
      field.path.startsWith(`${part.path}.`) &&
      (draft[part.path] ?? asText(part, startOf(part, base))) !== 'true',
  )
}

/** Settings that differ from where the form started, in the order of the form: parts before what is in them. */
export function changedFields(fields: readonly Field[], base: Config, draft: Draft): Field[] {
  const isChanged = (field: Field) => {
    const text = draft[field.path]
    return text !== undefined && text.trim() !== asText(field, startOf(field, base)).trim()
  }
  return fields
    .filter((field) => isChanged(field) && !isHidden(field, fields, base, draft))
    .sort((one, other) => Number(other.type === 'section') - Number(one.type === 'section'))
}

/** Where the form starts: the config that it begins with, else (inside a part that is off) the field's own default. */
export function startOf(field: Field, base: Config): unknown {
  const value = valueAt(base, field.path)
  return value === undefined ? field.default : value
}

/** Only what differs, as the request says it. */
export const overridesOf = (changed: readonly Field[], draft: Draft): Config =>
  nest(changed.map((field) => [field.path, typed(field, draft[field.path] ?? '')] as const))

export type Fault = 'number' | 'integer' | 'low' | 'high' | 'empty'

/** What can be told before the server is asked; null where nothing is wrong. */
export function faultOf(field: Field, text: string): Fault | null {
  const trimmed = text.trim()
  if (field.type !== 'number' && field.type !== 'integer') return null
  if (trimmed === '') return field.optional ? null : 'empty'
  const value = typedNumber(trimmed)
  if (!Number.isFinite(value)) return 'number'
  if (field.type === 'integer' && !Number.isInteger(value)) return 'integer'
  if (field.low !== null && (field.low_excluded ? value <= field.low : value < field.low)) return 'low'
  if (field.high !== null && (field.high_excluded ? value >= field.high : value > field.high)) return 'high'
  return null
}

/* ---- Grids */

export type Axis = { path: string; text: string }

/** Values of one setting in a grid, those of a line with commas between. */
export const axisValues = (field: Field, text: string): unknown[] => texts(text).map((part) => typed(field, part))

export const gridSize = (axes: readonly Axis[], fields: readonly Field[]): number =>
  axes.reduce((size, axis) => {
    const field = fields.find((one) => one.path === axis.path)
    return size * (field ? axisValues(field, axis.text).length : 0)
  }, 1)

export const gridOf = (axes: readonly Axis[], fields: readonly Field[]): Record<string, unknown[]> =>
  Object.fromEntries(
    axes.flatMap((axis) => {
      const field = fields.find((one) => one.path === axis.path)
      return field ? [[axis.path, axisValues(field, axis.text)]] : []
    }),
  )
