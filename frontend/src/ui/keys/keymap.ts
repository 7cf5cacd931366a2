/** The one table of keys: button, shortcut, key sheet and test read it. `matchKey` decides which key counts. */
import type { Key } from 'src/ui/i18n/t'

export type Scope = 'task' | 'reason' | 'any'
export type Action = {
  name: string
  scope: Scope
  /** As `event.key` in lower case; `mod+z` is Ctrl or Cmd. The first is shown on the button. */
  keys: readonly string[]
  label: Key
  what: Key
}

export const KEYMAP = [
  { name: 'chooseLeft', scope: 'task', keys: ['a', '1'], label: 'task.choose.left', what: 'keys.chooseLeft' },
  { name: 'chooseRight', scope: 'task', keys: ['b', '2'], label: 'task.choose.right', what: 'keys.chooseRight' },
  { name: 'chooseTie', scope: 'task', keys: ['t', '3'], label: 'task.choose.tie', what: 'keys.chooseTie' },
  { name: 'undo', scope: 'task', keys: ['u', 'mod+z'], label: 'task.undo', what: 'keys.undo' },
  { name: 'skip', scope: 'task', keys: ['s'], label: 'task.skip', what: 'keys.skip' },
  { name: 'flag', scope: 'task', keys: ['f'], label: 'task.flag', what: 'keys.flag' },
  { name: 'guideline', scope: 'task', keys: ['g'], label: 'task.guideline', what: 'keys.guideline' },
  { name: 'source', scope: 'task', keys: ['v'], label: 'task.source', what: 'keys.source' },
  { name: 'lock', scope: 'task', keys: ['l'], label: 'task.lock', what: 'keys.lock' },
  { name: 'focusLeft', scope: 'task', keys: ['['], label: 'task.focusLeft', what: 'keys.focusLeft' },
  { name: 'focusRight', scope: 'task', keys: [']'], label: 'task.focusRight', what: 'keys.focusRight' },
  { name: 'pageDown', scope: 'task', keys: ['space'], label: 'task.pageDown', what: 'keys.pageDown' },
  { name: 'pageUp', scope: 'task', keys: ['shift+space'], label: 'task.pageUp', what: 'keys.pageUp' },
  { name: 'reason1', scope: 'reason', keys: ['1'], label: 'reason.1', what: 'keys.reason' },
  { name: 'reason2', scope: 'reason', keys: ['2'], label: 'reason.2', what: 'keys.reason' },
  { name: 'reason3', scope: 'reason', keys: ['3'], label: 'reason.3', what: 'keys.reason' },
  { name: 'reason4', scope: 'reason', keys: ['4'], label: 'reason.4', what: 'keys.reason' },
  { name: 'reason5', scope: 'reason', keys: ['5'], label: 'reason.5', what: 'keys.reason' },
  { name: 'help', scope: 'any', keys: ['?'], label: 'keys.title', what: 'keys.help' },
] as const satisfies readonly Action[]

export type ActionName = (typeof KEYMAP)[number]['name']

const ACTIONS: readonly (Action & { name: ActionName })[] = KEYMAP

export function action(name: ActionName): Action {
  const found = ACTIONS.find((entry) => entry.name === name)
  if (!found) throw new Error(`no action ${name}`)
  return found
}

/** A key as it is printed on a button. */
export function keyLabel(key: string): string {
  if (key === 'space') return 'Space'
  return key
    .split('+')
    .map((part) =>
      part === 'mod' ? 'Ctrl' : part === 'space' ? 'Space' : part.length === 1 ? part.toUpperCase() : 'Shift',
    )
    .join('+')
}

const TEXT_INPUTS = new Set([
  'text',
  'search',
  'email',
  'password',
  'url',
  'tel',
  'number',
  'date',
  'time',
  'datetime-local',
  '',
])

/** Whether keys belong to what the person is writing in. Radios and checkboxes take no letters. */
export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false
  if (target instanceof HTMLInputElement) return TEXT_INPUTS.has(target.type)
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.isContentEditable
}

function ownsSpace(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest('button, a[href], input, select, textarea, summary') !== null
}

/** The key in the table's spelling, or null where it must be left alone. */
export function pressed(event: KeyboardEvent): string | null {
  if (event.repeat || event.isComposing || event.keyCode === 229 || event.defaultPrevented) return null
  const altGraph = event.getModifierState?.('AltGraph') ?? false
  const key = event.key.toLowerCase()
  if (!altGraph && (event.ctrlKey || event.metaKey)) {
    return key === 'z' && !event.shiftKey && !event.altKey ? 'mod+z' : null
  }
  if (!altGraph && event.altKey) return null
  if (key === ' ') return event.shiftKey ? 'shift+space' : 'space'
  // AltGr writes signs on some layouts; with a letter or a digit it is somebody else's shortcut.
  if (altGraph && /^[a-z0-9]$/.test(key)) return null
  if (/^[a-z]$/.test(key)) return event.shiftKey ? null : key
  if (/^[0-9]$/.test(key)) return key
  // AZERTY gives "&" for the key of 1; the code is the same everywhere.
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1]
  if (digit && !event.shiftKey) return digit
  return key.length === 1 ? key : null
}

/** The action of a key press, or null. `guardUntil` silences single keys right after a task appears. */
export function matchKey(
  event: KeyboardEvent,
  scopes: readonly Scope[],
  clock: { now: number; guardUntil: number },
): ActionName | null {
  const key = pressed(event)
  if (key === null || clock.now < clock.guardUntil || isTyping(event.target)) return null
  if ((key === 'space' || key === 'shift+space') && ownsSpace(event.target)) return null
  return ACTIONS.find((entry) => scopes.includes(entry.scope) && entry.keys.includes(key))?.name ?? null
}
