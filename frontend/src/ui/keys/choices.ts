/** What this browser was told about keys: whether single keys act at all, and other keys for some actions. Kept per browser,
 * because a keyboard belongs to a machine. */

const STORED = 'winnow-keys'

export type KeyChoices = {
  /** False: only buttons act, and keys with Ctrl, Cmd or Alt, Enter and Backspace (WCAG 2.1.4). */
  single: boolean
  /** A key by the name of its action, in the spelling of the keymap. */
  keys: Readonly<Record<string, string>>
}

const DEFAULT: KeyChoices = { single: true, keys: {} }
let current: KeyChoices | null = null

function read(): KeyChoices {
  try {
    const { single, keys }: Partial<KeyChoices> = JSON.parse(localStorage.getItem(STORED) ?? '{}')
    return { single: single !== false, keys: keys ?? {} }
  } catch {
    // Storage may be forbidden or hold something else: the keys are as printed in the manual.
    return DEFAULT
  }
}

export function keyChoices(): KeyChoices {
  current ??= read()
  return current
}

export function changeKeys(changed: KeyChoices): void {
  current = changed
  try {
    localStorage.setItem(STORED, JSON.stringify(changed))
  } catch {
    // The choice lasts as long as the page.
  }
}
