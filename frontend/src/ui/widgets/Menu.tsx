/** A button with a menu: arrows move, Home and End jump, Escape and a click outside close. */
import { Check } from 'lucide-react'
import { type CSSProperties, type KeyboardEvent, type ReactNode, useEffect, useReducer, useRef, useState } from 'react'
import { Button } from 'src/ui/widgets/Button'
import styles from 'src/ui/widgets/Menu.module.css'
import { Link } from 'wouter'

export type MenuItem =
  | { kind: 'action'; label: string; lang?: string; icon?: ReactNode; checked?: boolean; run: () => void }
  | { kind: 'link'; label: string; icon?: ReactNode; checked?: boolean; href: string }
  | { kind: 'heading'; label: string; note?: string }
  | { kind: 'separator' }

type MenuProps = {
  label: string
  button: ReactNode
  items: MenuItem[]
  align?: 'start' | 'end'
  icon?: boolean
  small?: boolean
}

const GAP = 6

/** Beside its button but fixed to the window, so that a table that scrolls does not cut it off. */
function placeAt(button: Element | null, align: 'start' | 'end'): CSSProperties {
  if (!button) return {}
  const { top, bottom, left, right } = button.getBoundingClientRect()
  const below = bottom < window.innerHeight * 0.6
  return {
    ...(below ? { top: bottom + GAP } : { bottom: window.innerHeight - top + GAP }),
    ...(align === 'start' ? { left } : { right: document.documentElement.clientWidth - right }),
  }
}

export function Menu({ label, button, items, align = 'end', icon, small = true }: MenuProps) {
  const [open, setOpen] = useState(false)
  // A scroll moves the button, and the menu with it.
  const [, follow] = useReducer((moves: number) => moves + 1, 0)
  const root = useRef<HTMLDivElement>(null)
  const list = useRef<HTMLDivElement>(null)

  useEffect(() => {
    if (!open) return
    list.current?.querySelector<HTMLElement>('[role^=menuitem]')?.focus({ preventScroll: true })
    const outside = (event: PointerEvent) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false)
    }
    document.addEventListener('pointerdown', outside)
    document.addEventListener('scroll', follow, { capture: true, passive: true })
    return () => {
      document.removeEventListener('pointerdown', outside)
      document.removeEventListener('scroll', follow, { capture: true })
    }
  }, [open])

  const close = () => {
    setOpen(false)
    root.current?.querySelector<HTMLElement>('button')?.focus()
  }
  const onKeyDown = (event: KeyboardEvent) => {
    if (!open) return
    const entries = [...(list.current?.querySelectorAll<HTMLElement>('[role^=menuitem]') ?? [])]
    const now = entries.indexOf(document.activeElement as HTMLElement)
    const target = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: -1 }[event.key]
    if (event.key === 'Escape') close()
    else if (event.key === 'Tab') setOpen(false)
    else if (target !== undefined) entries.at(target % entries.length)?.focus()
    else return
    if (event.key !== 'Tab') event.preventDefault()
    event.stopPropagation()
  }
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: hears the keys of the button and the entries inside.
    <div className={styles.root} ref={root} onKeyDown={onKeyDown}>
      <Button
        look="quiet"
        small={small}
        icon={icon}
        aria-label={icon ? label : undefined}
        title={icon ? label : undefined}
        aria-haspopup="menu"
        aria-expanded={open}
        onClick={() => setOpen(!open)}
      >
        {button}
      </Button>
      {open && (
        <div ref={list} className={styles.menu} style={placeAt(root.current, align)} role="menu" aria-label={label}>
          {items.map((item, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: the entries of an open menu do not move.
            <Entry key={index} item={item} close={close} />
          ))}
        </div>
      )}
    </div>
  )
}

function Entry({ item, close }: { item: MenuItem; close: () => void }) {
  if (item.kind === 'separator') return <hr className={styles.separator} />
  if (item.kind === 'heading') {
    return (
      <div className={styles.heading} role="presentation">
        <strong>{item.label}</strong>
        {item.note}
      </div>
    )
  }
  const inside = (
    <>
      {item.icon}
      <span>{item.label}</span>
      {item.checked && <Check size={16} aria-hidden="true" />}
    </>
  )
  const role = item.checked === undefined ? 'menuitem' : 'menuitemradio'
  const shared = { role, 'aria-checked': item.checked, tabIndex: -1, className: styles.item }
  if (item.kind === 'link') {
    return (
      <Link href={item.href} {...shared} onClick={close}>
        {inside}
      </Link>
    )
  }
  return (
    <button
      type="button"
      lang={item.lang}
      {...shared}
      onClick={() => {
        close()
        item.run()
      }}
    >
      {inside}
    </button>
  )
}
