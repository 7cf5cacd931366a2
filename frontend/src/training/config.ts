/** A run's config as a form and a table need it: by dotted path. */

export type Config = Record<string, unknown>

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

export type FieldKind = 'choice' | 'boolean' | 'number' | 'text'

export function fieldKind(type: string, choices: readonly unknown[] | null | undefined): FieldKind {
  if (choices && choices.length > 0) return 'choice'
  if (/^bool/.test(type)) return 'boolean'
  return /^(int|float|number)/.test(type) ? 'number' : 'text'
}

/** What a person typed as what the server expects. Text that is no number is sent as it is: the server names the fault. */
export function typed(kind: FieldKind, text: string): unknown {
  const trimmed = text.trim()
  if (kind === 'boolean') return trimmed === 'true'
  if (kind === 'number' && trimmed !== '' && Number.isFinite(Number(trimmed))) return Number(trimmed)
  return trimmed === '' ? null : trimmed
}

export const shown = (value: unknown): string =>
  value === null || value === undefined ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value)
