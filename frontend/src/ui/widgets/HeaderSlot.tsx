/** Lets a screen put its own controls into the shell's header. */
import { createContext, type ReactNode, useContext } from 'react'
import { createPortal } from 'react-dom'

export const HeaderSlotContext = createContext<HTMLElement | null>(null)

export function HeaderSlot({ children }: { children: ReactNode }) {
  const slot = useContext(HeaderSlotContext)
  return slot ? createPortal(children, slot) : null
}
