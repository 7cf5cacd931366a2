/** Small pieces: badges, progress, times, hashes, things to copy. */
import { Check, Copy } from 'lucide-react'
import { type ReactNode, useEffect, useState } from 'react'
import { exactTime, relativeTime, shortHash } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import styles from 'src/ui/widgets/Bits.module.css'
import { Button } from 'src/ui/widgets/Button'

export type Tone = 'plain' | 'ok' | 'warn' | 'error' | 'live'

export function Badge({ tone = 'plain', children }: { tone?: Tone; children: ReactNode }) {
  return <span className={`${styles.badge} ${tone === 'plain' ? '' : styles[tone]}`}>{children}</span>
}

export function Progress({ label, value, max }: { label: string; value: number; max: number }) {
  const share = max > 0 ? Math.min(1, value / max) : 0
  return (
    <div
      className={styles.track}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={max}
      aria-valuenow={Math.min(value, max)}
    >
      <div className={styles.fill} style={{ width: `${share * 100}%` }} />
    </div>
  )
}

export function Stat({ label, value, note }: { label: string; value: ReactNode; note?: ReactNode }) {
  return (
    <div className={styles.stat}>
      <div className={styles.statLabel}>{label}</div>
      <div className={styles.statValue}>{value}</div>
      {note && <div className={styles.statNote}>{note}</div>}
    </div>
  )
}

/** A clock shared by everything that says "2 min ago". */
export function useNow(everyMs = 30_000): number {
  const [now, setNow] = useState(() => Date.now())
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs)
    return () => clearInterval(timer)
  }, [everyMs])
  return now
}

export function Time({ at }: { at: string | null | undefined }) {
  const now = useNow()
  if (!at) return <>{'–'}</>
  return (
    <time dateTime={at} title={exactTime(at)} className="nowrap">
      {relativeTime(at, now)}
    </time>
  )
}

export function Hash({ value }: { value: string }) {
  return (
    <span className={styles.hash} title={value}>
      {shortHash(value)}
    </span>
  )
}

/** Clipboard where the browser allows it; selecting the text always works. */
export function CopyBox({ text, label, wrap }: { text: string; label: string; wrap?: boolean }) {
  return (
    <div className={`${styles.copyBox} ${wrap ? styles.wrap : ''}`}>
      <div className={styles.copyHead}>
        <span>{label}</span>
        <CopyButton text={text} label={label} />
      </div>
      <section tabIndex={0} aria-label={label}>
        <pre>{text}</pre>
      </section>
    </div>
  )
}

export function CopyButton({ text, label }: { text: string; label: string }) {
  const [done, setDone] = useState(false)
  useEffect(() => {
    if (!done) return
    const timer = setTimeout(() => setDone(false), 2000)
    return () => clearTimeout(timer)
  }, [done])
  if (!navigator.clipboard) return null
  return (
    <Button
      small
      aria-label={done ? undefined : t('action.copyNamed', { what: label })}
      onClick={() => void navigator.clipboard.writeText(text).then(() => setDone(true))}
    >
      {done ? <Check size={16} aria-hidden="true" /> : <Copy size={16} aria-hidden="true" />}
      {done ? t('action.copied') : t('action.copy')}
    </Button>
  )
}
