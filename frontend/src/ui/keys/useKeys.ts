/** Runs the handlers of a scope on key presses. While a modal is open only a layer inside it hears keys. */
import { useEffect, useRef } from 'react'
import { type ActionName, matchKey, type Scope } from 'src/ui/keys/keymap'

export type Handlers = Partial<Record<ActionName, (() => void) | undefined>>

type Options = { layer?: 'page' | 'modal'; guardUntil?: () => number }

export function useKeys(
  /** In the order in which they hear a key; asked at each press where the focus decides. */
  scopes: readonly Scope[] | (() => readonly Scope[]),
  handlers: Handlers,
  { layer = 'page', guardUntil }: Options = {},
): void {
  const latest = useRef({ scopes, handlers, guardUntil })
  useEffect(() => {
    latest.current = { scopes, handlers, guardUntil }
  })
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (layer === 'page' && document.querySelector('dialog[open]') !== null) return
      const { scopes, handlers, guardUntil } = latest.current
      const name = matchKey(event, typeof scopes === 'function' ? scopes() : scopes, {
        now: performance.now(),
        guardUntil: guardUntil?.() ?? 0,
      })
      const run = name && handlers[name]
      if (!run) return
      event.preventDefault()
      run()
    }
    window.addEventListener('keydown', onKeyDown)
    return () => window.removeEventListener('keydown', onKeyDown)
  }, [layer])
}
