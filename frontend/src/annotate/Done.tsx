/** Nothing to do right now: why, and what comes next. */

import { useQuery } from '@tanstack/react-query'
import { BookOpen, CircleCheck, GraduationCap, Hourglass, type LucideIcon, PauseCircle, Sprout } from 'lucide-react'
import { useEffect } from 'react'
import type { DoneReason } from 'src/annotate/queue'
import styles from 'src/annotate/Task.module.css'
import { standingQuery } from 'src/api/annotator'
import { workQuery } from 'src/api/queries'
import { duration } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { useTitle } from 'src/ui/widgets/Page'
import { Empty, Notice } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const ICONS: Record<DoneReason, LucideIcon> = {
  all_done: CircleCheck,
  held_by_others: Hourglass,
  paused: PauseCircle,
  nothing_yet: Sprout,
  person_paused: PauseCircle,
  confirm_guideline: BookOpen,
  practise: GraduationCap,
  qualify: GraduationCap,
  share_done: CircleCheck,
}
/** Reasons that the person ends by going somewhere. */
const STEPS: ReadonlySet<DoneReason> = new Set(['confirm_guideline', 'practise', 'qualify'])
/** Reasons that pass by themselves: asked again so often. */
const AGAIN_MS: Partial<Record<DoneReason, number>> = { held_by_others: 60_000, nothing_yet: 10_000, paused: 60_000 }

type DoneProps = {
  slug: string
  reason: DoneReason
  votes: number
  waiting: number
  canUndo: boolean
  onUndo: () => void
  retry: () => void
}

export function Done({ slug, reason, votes, waiting, canUndo, onUndo, retry }: DoneProps) {
  const title = t(`done.${reason}.title`)
  useTitle(title)
  const work = useQuery(workQuery()).data?.find((entry) => entry.slug === slug)
  const again = AGAIN_MS[reason]
  useEffect(() => {
    if (again === undefined) return
    const timer = setTimeout(retry, again)
    return () => clearTimeout(timer)
  }, [again, retry])
  return (
    <div className={styles.center}>
      <div className={styles.centerBox}>
        <Empty
          page
          icon={ICONS[reason]}
          title={title}
          action={
            <div style={{ display: 'flex', gap: 8, flexWrap: 'wrap', justifyContent: 'center' }}>
              {STEPS.has(reason) && (
                <LinkButton href={`/p/${slug}/start`} look="primary">
                  {t('done.start')}
                </LinkButton>
              )}
              <LinkButton href="/" look={STEPS.has(reason) ? 'plain' : 'primary'}>
                {t('done.home')}
              </LinkButton>
              {again !== undefined && <Button onClick={retry}>{t('done.look')}</Button>}
              {canUndo && <Button onClick={onUndo}>{t('done.undo')}</Button>}
            </div>
          }
        >
          {t(`done.${reason}.text`)} {reason === 'person_paused' && <PauseReason slug={slug} />}{' '}
          {votes > 0 && t('done.votes', { n: votes })}{' '}
          {work && work.today_votes > 0 && (
            <>{t('done.today', { n: work.today_votes, time: duration(work.today_active_ms / 1000) })} </>
          )}
          {work && work.unread_feedback > 0 && <Link href={`/p/${slug}/me`}>{t('done.feedback')}</Link>}
        </Empty>
        {waiting > 0 && <Notice tone="warn">{t('done.waiting', { n: waiting })}</Notice>}
      </div>
    </div>
  )
}

/** Why, in the words of who paused, and whether there is a way back. */
function PauseReason({ slug }: { slug: string }) {
  const standing = useQuery(standingQuery(slug)).data
  if (!standing) return null
  return (
    <>
      {standing.pause_reason}{' '}
      {standing.next === 'qualify' && <Link href={`/p/${slug}/start`}>{t('done.wayBack')}</Link>}
    </>
  )
}
