/** Layout pieces that every screen is made of. */
import { type CSSProperties, type ReactNode, useEffect, useId } from 'react'
import { t } from 'src/ui/i18n/t'
import styles from 'src/ui/widgets/Page.module.css'

type PageProps = {
  title: string
  /** Shown instead of the title, where it needs more than text. */
  heading?: ReactNode
  above?: ReactNode
  intro?: ReactNode
  actions?: ReactNode
  narrow?: boolean
  children: ReactNode
}

export function Page({ title, heading, above, intro, actions, narrow, children }: PageProps) {
  useTitle(title)
  return (
    <div className={`${styles.page} ${narrow ? styles.narrow : ''}`}>
      <header className={styles.header}>
        <div className={styles.heading}>
          {above && <div className={styles.above}>{above}</div>}
          <h1>{heading ?? title}</h1>
          {intro && <p className={styles.intro}>{intro}</p>}
        </div>
        {actions && <div className={styles.actions}>{actions}</div>}
      </header>
      {children}
    </div>
  )
}

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · ${t('app.name')}`
  }, [title])
}

type CardProps = { title?: ReactNode; note?: ReactNode; actions?: ReactNode; flush?: boolean; children?: ReactNode }

/** A titled region. `flush` lets a table reach the edges. */
export function Card({ title, note, actions, flush, children }: CardProps) {
  const id = useId()
  return (
    <section className={`${styles.card} ${flush ? styles.flush : ''}`} aria-labelledby={title ? id : undefined}>
      {(title || actions) && (
        <div className={styles.cardHeader}>
          <div>
            {title && <h2 id={id}>{title}</h2>}
            {note && <div className={styles.cardNote}>{note}</div>}
          </div>
          {actions && <div className={styles.row}>{actions}</div>}
        </div>
      )}
      {children}
    </section>
  )
}

export const Stack = ({ children }: { children: ReactNode }) => <div className={styles.stack}>{children}</div>
export const Row = ({ children }: { children: ReactNode }) => <div className={styles.row}>{children}</div>

export function Columns({ width = 320, children }: { width?: number; children: ReactNode }) {
  return (
    <div className={styles.columns} style={{ '--column': `${width}px` } as CSSProperties}>
      {children}
    </div>
  )
}

export function Facts({ items }: { items: [string, ReactNode][] }) {
  return (
    <dl className={styles.facts}>
      {items.map(([term, value]) => (
        <div key={term} style={{ display: 'contents' }}>
          <dt>{term}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}
