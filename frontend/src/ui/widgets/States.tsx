/** Loading, empty, failed: what a screen shows when it has no rows. */
import { CircleAlert, Compass, type LucideIcon } from 'lucide-react'
import { Component, type ReactNode, useEffect, useState } from 'react'
import { ApiError } from 'src/api/errors'
import { t } from 'src/ui/i18n/t'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import styles from 'src/ui/widgets/States.module.css'

const WIDTHS = ['72%', '88%', '64%', '80%', '54%', '76%', '60%', '84%', '70%', '66%']

export function Skeleton({ rows = 6 }: { rows?: number }) {
  return (
    <div className={styles.skeleton} aria-hidden="true">
      {WIDTHS.slice(0, rows).map((width) => (
        <div key={width} className={styles.bone} style={{ width }} />
      ))}
    </div>
  )
}

export function SkeletonBoxes({ boxes = 3, height = 160 }: { boxes?: number; height?: number }) {
  return (
    <div className={styles.boxes} aria-hidden="true">
      {WIDTHS.slice(0, boxes).map((width) => (
        <div key={width} className={styles.box} style={{ height }} />
      ))}
    </div>
  )
}

type EmptyProps = { icon: LucideIcon; title: string; page?: boolean; action?: ReactNode; children?: ReactNode }

/** `page`: there is nothing else on the page, so this is its heading. */
export function Empty({ icon: Icon, title, page, action, children }: EmptyProps) {
  const Title = page ? 'h1' : 'div'
  return (
    <div className={styles.empty}>
      <span className={styles.emptyIcon}>
        <Icon size={22} aria-hidden="true" />
      </span>
      <Title className={styles.emptyTitle}>{title}</Title>
      {children && <p>{children}</p>}
      {action}
    </div>
  )
}

/** An address without anything behind it: `what` could not be shown, or nothing is ever there. `page`: as of `Empty`. */
export function Missing({ what, page }: { what?: string; page?: boolean }) {
  return (
    <Empty
      icon={Compass}
      title={t('notFound.title')}
      page={page}
      action={<LinkButton href="/">{t('done.home')}</LinkButton>}
    >
      {what ?? t('notFound.text')} {what && t('error.notFound')}
    </Empty>
  )
}

type NoticeProps = {
  tone?: 'plain' | 'ok' | 'warn' | 'error'
  role?: 'status' | 'alert'
  action?: ReactNode
  children: ReactNode
}

export function Notice({ tone = 'plain', role, action, children }: NoticeProps) {
  return (
    <div className={`${styles.notice} ${tone === 'plain' ? '' : styles[tone]}`} role={role}>
      <div>{children}</div>
      {action}
    </div>
  )
}

/** The message of a failure as a person reads it; the server's own words where it gave some. */
export function errorMessage(error: unknown): string {
  if (!(error instanceof ApiError)) return t('error.unexpected')
  if (error.status === 0) return t('error.network')
  if (error.status === 403) return error.message || t('error.forbidden')
  if (error.status === 404) return t('error.notFound')
  if (error.status === 429) return t('error.tooMany')
  if (error.status >= 500) return t('error.server')
  return error.message || t('error.refused', { code: error.code })
}

type ErrorPanelProps = { what: string; error: unknown; page?: boolean; retry?: () => void; safe?: string }

/** `page`: as of `Empty`. */
export function ErrorPanel({ what, error, page, retry, safe }: ErrorPanelProps) {
  const Title = page ? 'h1' : 'div'
  const api = error instanceof ApiError ? error : null
  const wait = useCountdown(retry ? (api?.retryAfter ?? null) : null, retry)
  return (
    <div className={styles.panel} role="alert">
      <Title className={styles.panelTitle}>
        <CircleAlert size={18} aria-hidden="true" />
        {what}
      </Title>
      <p>
        {errorMessage(error)} {safe ?? t('error.nothingChanged')}
      </p>
      {retry && (
        <Button small onClick={retry}>
          {wait === null ? t('action.retry') : t('action.retryIn', { seconds: wait })}
        </Button>
      )}
      {api?.reference && (
        <div className={styles.reference}>{t('error.reference', { reference: api.reference.slice(0, 8) })}</div>
      )}
    </div>
  )
}

/** Seconds left until `then` runs by itself; null where the server did not ask to wait. */
function useCountdown(from: number | null, then: (() => void) | undefined): number | null {
  const [left, setLeft] = useState(from)
  useEffect(() => {
    if (left === null || !then) return
    const timer = setTimeout(() => (left <= 1 ? then() : setLeft(left - 1)), 1000)
    return () => clearTimeout(timer)
  }, [left, then])
  return left
}

/** Keeps a crash inside its panel. */
export class Guard extends Component<{ children: ReactNode; what?: string }, { error: unknown }> {
  override state: { error: unknown } = { error: null }

  static getDerivedStateFromError(error: unknown) {
    return { error }
  }

  override render() {
    if (this.state.error === null) return this.props.children
    return (
      <ErrorPanel
        what={this.props.what ?? t('error.panel')}
        error={this.state.error}
        retry={() => this.setState({ error: null })}
      />
    )
  }
}

type QueryLike<T> = {
  data: T | undefined
  error: unknown
  isFetching: boolean
  isPending: boolean
  refetch: () => unknown
}

/**
 * The usual screen: skeleton, then data; stale data stays under a bar; an error with data keeps the data. What is not
 * there is no failure that a person could try again.
 */
export function Loaded<T>({
  query,
  what,
  skeleton,
  children,
}: {
  query: QueryLike<T>
  what: string
  skeleton?: ReactNode
  children: (data: T) => ReactNode
}) {
  if (query.data !== undefined) {
    return (
      <>
        {query.error !== null && (
          <Notice tone="warn" role="status">
            {t('state.stale')} {errorMessage(query.error)}
          </Notice>
        )}
        {children(query.data)}
      </>
    )
  }
  if (query.isPending && query.error === null) return skeleton ?? <Skeleton />
  if (query.error instanceof ApiError && query.error.status === 404) return <Missing what={what} />
  return <ErrorPanel what={what} error={query.error} retry={() => void query.refetch()} />
}
