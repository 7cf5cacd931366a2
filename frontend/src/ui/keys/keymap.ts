/** The one table of keys: button, shortcut, key sheet and test read it. `matchKey` decides which key counts. */
import type { Key } from 'src/ui/i18n/t'
import { keyChoices } from 'src/ui/keys/choices'

export type Scope = 'task' | 'choice' | 'scale' | 'row' | 'rank' | 'reason' | 'any'
export type Action = {
  name: string
  scope: Scope
  /** As `event.key` in lower case; `mod+z` is Ctrl or Cmd. The first is shown on the button. */
  keys: readonly string[]
  label: Key
  what: Key
}

const FIXED = [
  { name: 'chooseLeft', scope: 'choice', keys: ['a', '1'], label: 'task.choose.left', what: 'keys.chooseLeft' },
  { name: 'chooseRight', scope: 'choice', keys: ['b', '2'], label: 'task.choose.right', what: 'keys.chooseRight' },
  { name: 'chooseTie', scope: 'choice', keys: ['t', '3'], label: 'task.choose.tie', what: 'keys.chooseTie' },
  { name: 'bothBad', scope: 'choice', keys: ['x', '4'], label: 'task.choose.both_bad', what: 'keys.bothBad' },
  { name: 'scaleBothBad', scope: 'scale', keys: ['x'], label: 'task.choose.both_bad', what: 'keys.bothBad' },
  { name: 'notApplicable', scope: 'row', keys: ['n'], label: 'rating.na', what: 'keys.notApplicable' },
  { name: 'tie', scope: 'rank', keys: ['='], label: 'rank.tie', what: 'keys.tie' },
  { name: 'takeBack', scope: 'rank', keys: ['backspace'], label: 'rank.takeBack', what: 'keys.takeBack' },
  { name: 'moveUp', scope: 'rank', keys: ['alt+up'], label: 'rank.up', what: 'keys.moveUp' },
  { name: 'moveDown', scope: 'rank', keys: ['alt+down'], label: 'rank.down', what: 'keys.moveDown' },
  { name: 'submit', scope: 'task', keys: ['enter', 'mod+enter'], label: 'task.submit', what: 'keys.submit' },
  { name: 'undo', scope: 'task', keys: ['u', 'mod+z'], label: 'task.undo', what: 'keys.undo' },
  { name: 'skip', scope: 'task', keys: ['s'], label: 'task.skip', what: 'keys.skip' },
  { name: 'flag', scope: 'task', keys: ['f', 'shift+f'], label: 'task.flag', what: 'keys.flag' },
  { name: 'guideline', scope: 'task', keys: ['g', 'shift+g'], label: 'task.guideline', what: 'keys.guideline' },
  { name: 'rationale', scope: 'task', keys: ['r'], label: 'words.why', what: 'keys.rationale' },
  { name: 'source', scope: 'task', keys: ['v'], label: 'task.source', what: 'keys.source' },
  { name: 'differences', scope: 'task', keys: ['d', 'shift+d'], label: 'task.differences', what: 'keys.differences' },
  { name: 'lock', scope: 'task', keys: ['l'], label: 'task.lock', what: 'keys.lock' },
  { name: 'focusLeft', scope: 'task', keys: ['['], label: 'task.focusLeft', what: 'keys.focusLeft' },
  { name: 'focusRight', scope: 'task', keys: [']'], label: 'task.focusRight', what: 'keys.focusRight' },
  { name: 'pageDown', scope: 'task', keys: ['space'], label: 'task.pageDown', what: 'keys.pageDown' },
  { name: 'pageUp', scope: 'task', keys: ['shift+space'], label: 'task.pageUp', what: 'keys.pageUp' },
  { name: 'help', scope: 'any', keys: ['?'], label: 'keys.title', what: 'keys.help' },
] as const satisfies readonly Action[]

const NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8, 9] as const
type Numbered = (typeof NUMBERS)[number]

/** Nine actions of one meaning: the digit, or the letter of that place, says which. */
function numbered<Name extends string>(
  name: Name,
  scope: Scope,
  what: Key,
  keys: (number: number) => string[],
): (Action & { name: `${Name}${Numbered}` })[] {
  return NUMBERS.map((number) => ({ name: `${name}${number}` as const, scope, keys: keys(number), label: what, what }))
}

const digit = (number: number): string[] => [String(number)]

const ACTIONS = [
  ...FIXED,
  ...numbered('point', 'scale', 'keys.point', digit),
  ...numbered('row', 'row', 'keys.row', digit),
  ...numbered('place', 'rank', 'keys.place', (number) => [String.fromCharCode(96 + number), String(number)]),
  ...numbered('reason', 'reason', 'keys.reason', digit),
]
export const KEYMAP: readonly Action[] = ACTIONS
export type ActionName = (typeof ACTIONS)[number]['name']

export function action(name: ActionName): Action {
  const found = ACTIONS.find((entry) => entry.name === name)
  if (!found) throw new Error(`no action ${name}`)
  return found
}

/** A key that writes a character: a letter, a digit, a sign, the space. */
export const CHARACTER = /^(?:shift\+)?(?:[^+]|space)$/

/** The keys that act here: the person's own key in place of the first, and no single ones where they are switched off. */
export function keysOf({ name, keys }: Action): readonly string[] {
  const { single, keys: own } = keyChoices()
  const chosen = own[name]
  const acting = chosen === undefined ? keys : [chosen, ...keys.slice(1).filter((key) => !CHARACTER.test(key))]
  return single ? acting : acting.filter((key) => !CHARACTER.test(key))
}

/** Scopes whose keys a person may change: one key each, known by the name of its action. */
const CHANGEABLE: readonly Scope[] = ['choice', 'task', 'any']
export const changeable = () =>
  ACTIONS.filter(({ scope, keys: [key = ''] }) => CHANGEABLE.includes(scope) && CHARACTER.test(key))

const MAIN: readonly Scope[] = ['choice', 'scale', 'rank']

/** Another action that may be on the same screen and has this key, so that it cannot be given away. */
export function holderOf(key: string, name: ActionName): Action | null {
  const { scope, keys } = action(name)
  const own = keyChoices().keys
  const others = KEYMAP.filter((other) => other.name !== name && other.scope !== 'reason')
  const holder = others.find((other) => {
    if (own[other.name] === key) return true
    const apart = MAIN.includes(scope) && MAIN.includes(other.scope) && scope !== other.scope
    // Back to its first key, which the table itself has made room for.
    return !apart && keys[0] !== key && keysOf(other).includes(key)
  })
  return holder ?? null
}

/** The key to print on a button: the first that no scope heard before takes for itself. */
export function keyOf(name: ActionName, scopes: readonly Scope[]): string {
  const found = action(name)
  const { scope } = found
  const keys = keysOf(found)
  const before = scopes.slice(0, Math.max(0, scopes.indexOf(scope)))
  const taken = new Set(KEYMAP.filter((entry) => before.includes(entry.scope)).flatMap(keysOf))
  return keys.find((key) => !taken.has(key)) ?? keys[0] ?? ''
}

/** A key as it is printed on a button. */
const NAMES: Record<string, string> = {
  mod: 'Ctrl',
  shift: 'Shift',
  alt: 'Alt',
  space: 'Space',
  enter: 'Enter',
  backspace: '⌫',
  up: '↑',
  down: '↓',
}

export function keyLabel(key: string): string {
  return key
    .split('+')
    .map((part) => NAMES[part] ?? part.toUpperCase())
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

/** Space presses what has the focus; Enter too, except that it does nothing to a radio or a checkbox. */
function owns(target: EventTarget | null, key: string): boolean {
  const pressable = 'button, a[href], select, textarea, summary'
  const selector = key === 'enter' ? pressable : `${pressable}, input`
  return target instanceof Element && target.closest(selector) !== null
}

/** The key in the table's spelling, or null where it must be left alone. */
export function pressed(event: KeyboardEvent): string | null {
  if (event.repeat || event.isComposing || event.keyCode === 229 || event.defaultPrevented) return null
  const altGraph = event.getModifierState?.('AltGraph') ?? false
  const key = event.key.toLowerCase()
  if (!altGraph && (event.ctrlKey || event.metaKey)) {
    return (key === 'z' || key === 'enter') && !event.shiftKey && !event.altKey ? `mod+${key}` : null
  }
  if (event.altKey && (key === 'arrowup' || key === 'arrowdown')) return key.replace('arrow', 'alt+')
  if (!altGraph && event.altKey) return null
  if (key === ' ') return event.shiftKey ? 'shift+space' : 'space'
  // AltGr writes signs on some layouts; with a letter or a digit it is somebody else's shortcut.
  if (altGraph && /^[a-z0-9]$/.test(key)) return null
  if (/^[a-z]$/.test(key)) return event.shiftKey ? `shift+${key}` : key
  if (/^[0-9]$/.test(key)) return key
  // AZERTY gives "&" for the key of 1; the code is the same everywhere.
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1]
  if (digit && !event.shiftKey) return digit
  return key.length === 1 || ((key === 'enter' || key === 'backspace') && !event.shiftKey) ? key : null
}

/**
 * The action of a key press, or null: the first scope that knows the key has it. `guardUntil` silences single keys right
 * after a task appears.
 */
export function matchKey(
  event: KeyboardEvent,
  scopes: readonly Scope[],
  clock: { now: number; guardUntil: number },
): ActionName | null {
  const key = pressed(event)
  if (key === null || clock.now < clock.guardUntil || (isTyping(event.target) && key !== 'mod+enter')) return null
  if (['space', 'shift+space', 'enter'].includes(key) && owns(event.target, key)) return null
  for (const scope of scopes) {
    const found = ACTIONS.find((entry) => entry.scope === scope && keysOf(entry).includes(key))
    if (found) return found.name
  }
  return null
}
