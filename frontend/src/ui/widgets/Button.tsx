import type { ComponentProps, ReactNode } from 'react'
import styles from 'src/ui/widgets/Button.module.css'
import { Link } from 'wouter'

type Look = {
  look?: 'primary' | 'plain' | 'quiet' | 'danger' | 'text'
  small?: boolean
  icon?: boolean
  children: ReactNode
}

function className({ look = 'plain', small, icon }: Look, extra?: string): string {
  return [styles.button, look !== 'plain' && styles[look], small && styles.small, icon && styles.icon, extra]
    .filter(Boolean)
    .join(' ')
}

type ButtonProps = Look & Omit<ComponentProps<'button'>, 'children'> & { busy?: boolean }

/** A busy button keeps its place and its focus, and does nothing. */
export function Button({ look, small, icon, children, busy, className: extra, onClick, ...rest }: ButtonProps) {
  return (
    <button
      type="button"
      {...rest}
      aria-busy={busy || undefined}
      aria-disabled={busy || rest['aria-disabled']}
      onClick={busy ? (event) => event.preventDefault() : onClick}
      className={className({ look, small, icon, children }, extra)}
    >
      {children}
    </button>
  )
}

export function LinkButton({
  look,
  small,
  icon,
  children,
  href,
  className: extra,
}: Look & { href: string; className?: string }) {
  return (
    <Link href={href} className={className({ look, small, icon, children }, extra)}>
      {children}
    </Link>
  )
}

/** A file to download: a plain link, so that the browser streams it. */
export function DownloadLink({ look, small, icon, children, href }: Look & { href: string }) {
  return (
    <a href={href} download className={className({ look, small, icon, children })}>
      {children}
    </a>
  )
}
