/** What to do next: the annotator's work, and the researcher's projects. Nothing here ranks people or rewards speed. */
import { useQuery } from '@tanstack/react-query'
import { Inbox, Plus } from 'lucide-react'
import { useMembership } from 'src/api/membership'
import { sessionQuery, workQuery } from 'src/api/queries'
import type { AnnotateProject, User } from 'src/api/schema'
import styles from 'src/app/Home.module.css'
import { duration } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Badge, Progress, Time } from 'src/ui/widgets/Bits'
import { LinkButton } from 'src/ui/widgets/Button'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Guard, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link } from 'wouter'

/** The server counts no further. */
const MOST_COUNTED = 200

export default function Home() {
  const user = useQuery(sessionQuery()).data?.user
  if (!user) return null
  const annotates = user.projects.some((project) => project.can_annotate)
  const research = user.projects.filter((project) => project.can_research)
  const begin = (
    <LinkButton small={research.length > 0} look={research.length > 0 ? 'plain' : 'primary'} href="/projects/new">
      <Plus size={16} aria-hidden="true" />
      {t('home.new')}
    </LinkButton>
  )
  return (
    <Page title={t('home.title')} heading={t('home.heading', { name: user.name || user.email })} narrow>
      {user.projects.length === 0 && (
        <Card>
          <Empty icon={Inbox} title={t('home.none')} action={begin}>
            {t('home.noneText')}
          </Empty>
        </Card>
      )}
      {annotates && (
        <Guard>
          <Work />
        </Guard>
      )}
      {research.length > 0 && (
        <Card
          title={t('home.projects')}
          actions={
            <>
              <LinkButton small look="quiet" href="/experiments">
                {t('home.experiments')}
              </LinkButton>
              {begin}
            </>
          }
          flush
        >
          <ul className={styles.list}>
            {research.map((project) => (
              <Project key={project.slug} project={project} />
            ))}
          </ul>
        </Card>
      )}
    </Page>
  )
}

function Work() {
  const work = useQuery(workQuery())
  return (
    <Card title={t('home.work')} note={<Today projects={work.data ?? []} />} flush>
      <Loaded
        query={work}
        what={t('home.workFailed')}
        skeleton={
          <div style={{ padding: '0 24px' }}>
            <Skeleton rows={3} />
          </div>
        }
      >
        {(projects) =>
          projects.length === 0 ? (
            <Empty icon={Inbox} title={t('home.noWork')} />
          ) : (
            <ul className={styles.list}>
              {projects.map((project) => (
                <WorkItem key={project.slug} project={project} />
              ))}
            </ul>
          )
        }
      </Loaded>
    </Card>
  )
}

/** What was done since midnight: told, not judged. */
function Today({ projects }: { projects: AnnotateProject[] }) {
  const sum = (field: 'today_votes' | 'today_active_ms') => projects.reduce((total, one) => total + one[field], 0)
  if (sum('today_votes') === 0) return null
  return t('home.today', { n: sum('today_votes'), time: duration(sum('today_active_ms') / 1000) })
}

/** What is to be done first, by the step that the server names. */
const STEPS: Record<AnnotateProject['next'], { state: Key; action: Key } | null> = {
  ready: null,
  confirm_guideline: { state: 'home.confirmGuideline', action: 'home.read' },
  practise: { state: 'home.practise', action: 'home.begin' },
  qualify: { state: 'home.qualify', action: 'home.begin' },
  failed: { state: 'home.notQualified', action: 'home.look' },
  paused: { state: 'home.personPaused', action: 'home.look' },
}

function stateOf({ votes, remaining, paused, next, median_ms }: AnnotateProject): string {
  const step = STEPS[next]
  if (paused) return t('home.paused')
  if (step) return t(step.state)
  if (remaining === 0) return votes > 0 ? t('home.allDone') : t('home.nothingYet')
  const left =
    remaining >= MOST_COUNTED ? t('home.remainingMany', { n: MOST_COUNTED }) : t('home.remaining', { n: remaining })
  if (median_ms === null || remaining >= MOST_COUNTED) return left
  return `${left} · ${t('home.timeLeft', { time: duration((remaining * median_ms) / 1000) })}`
}

function WorkItem({ project }: { project: AnnotateProject }) {
  const { slug, name, question, votes, remaining, paused, next, unread_feedback, feedback_at } = project
  const { canAdjudicate } = useMembership(slug)
  const step = STEPS[next]
  return (
    <li className={styles.item}>
      <div className={styles.info}>
        <h3>
          {name} {paused && <Badge tone="warn">{t('home.pausedBadge')}</Badge>}
          {unread_feedback > 0 && <Badge tone="ok">{t('home.newFeedback')}</Badge>}
        </h3>
        <div className="muted">{question}</div>
        <div className={styles.progress}>
          <Progress label={t('task.progress')} value={votes} max={votes + remaining} />
          <span>
            {t('home.votes', { n: votes })} · {stateOf(project)}
          </span>
          {feedback_at && (
            <span>
              {t('home.lastFeedback')} <Time at={feedback_at} /> ·{' '}
              <Link href={`/p/${slug}/me`}>{t('home.readFeedback')}</Link>
            </span>
          )}
        </div>
      </div>
      <span className={styles.actions}>
        {canAdjudicate && <LinkButton href={`/r/${slug}/adjudicate`}>{t('home.adjudicate')}</LinkButton>}
        <LinkButton href={`/p/${slug}/me`} look="quiet">
          {t('home.mine')}
        </LinkButton>
        {!paused &&
          (step ? (
            <LinkButton href={`/p/${slug}/start`} look="primary">
              {t(step.action)}
            </LinkButton>
          ) : (
            <LinkButton href={`/p/${slug}/task`} look={remaining > 0 ? 'primary' : 'plain'}>
              {votes === 0 ? t('home.start') : t('home.continue')}
            </LinkButton>
          ))}
      </span>
    </li>
  )
}

function Project({ project }: { project: User['projects'][number] }) {
  return (
    <li className={styles.item}>
      <div className={styles.info}>
        <h3>{project.name}</h3>
        <div className="muted">{t('home.role', { role: t(`role.${project.role}`) })}</div>
      </div>
      <LinkButton href={`/r/${project.slug}`}>{t('home.open')}</LinkButton>
    </li>
  )
}
