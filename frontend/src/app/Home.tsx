/** What to do next: the annotator's work, and the researcher's projects. Nothing here ranks people or rewards speed. */
import { useQuery } from '@tanstack/react-query'
import { Inbox } from 'lucide-react'
import { useMembership } from 'src/api/membership'
import { sessionQuery, workQuery } from 'src/api/queries'
import type { AnnotateProject, User } from 'src/api/schema'
import styles from 'src/app/Home.module.css'
import { t } from 'src/ui/i18n/t'
import { Badge, Progress } from 'src/ui/widgets/Bits'
import { LinkButton } from 'src/ui/widgets/Button'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Guard, Loaded, Skeleton } from 'src/ui/widgets/States'

export default function Home() {
  const user = useQuery(sessionQuery()).data?.user
  if (!user) return null
  const annotates = user.projects.some((project) => project.can_annotate)
  const research = user.projects.filter((project) => project.can_research)
  return (
    <Page title={t('home.title')} heading={t('home.heading', { name: user.name || user.email })} narrow>
      {user.projects.length === 0 && (
        <Card>
          <Empty icon={Inbox} title={t('home.none')}>
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
        <Card title={t('home.projects')} flush>
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
    <Card title={t('home.work')} flush>
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

function WorkItem({ project }: { project: AnnotateProject }) {
  const { slug, name, question, votes, remaining, paused } = project
  const { canAdjudicate } = useMembership(slug)
  const state = paused
    ? t('home.paused')
    : remaining === 0
      ? votes > 0
        ? t('home.allDone')
        : t('home.nothingYet')
      : t('home.remaining', { n: remaining })
  return (
    <li className={styles.item}>
      <div className={styles.info}>
        <h3>
          {name} {paused && <Badge tone="warn">{t('home.pausedBadge')}</Badge>}
        </h3>
        <div className="muted">{question}</div>
        <div className={styles.progress}>
          <Progress label={t('task.progress')} value={votes} max={votes + remaining} />
          <span>
            {t('home.votes', { n: votes })} · {state}
          </span>
        </div>
      </div>
      <span className={styles.actions}>
        {canAdjudicate && <LinkButton href={`/r/${slug}/adjudicate`}>{t('home.adjudicate')}</LinkButton>}
        <LinkButton href={`/p/${slug}/me`} look="quiet">
          {t('home.mine')}
        </LinkButton>
        {!paused && (
          <LinkButton href={`/p/${slug}/task`} look={remaining > 0 ? 'primary' : 'plain'}>
            {votes === 0 ? t('home.start') : t('home.continue')}
          </LinkButton>
        )}
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
