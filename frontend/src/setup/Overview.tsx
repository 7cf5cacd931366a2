/** The project at a glance: how far the data is, how well people agree, who works, and what needs a decision. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { ArrowRight, Pause, Play, UserPlus, Users } from 'lucide-react'
import type { ReactNode } from 'react'
import { useMembership } from 'src/api/membership'
import { keys, overviewQuery, patchProject, projectQuery } from 'src/api/queries'
import type { Overview, Person, Project } from 'src/api/schema'
import { nextStep } from 'src/setup/nextStep'
import styles from 'src/setup/Overview.module.css'
import { alarmNames, alarmTotal } from 'src/ui/alarms'
import { EstimateFigure, Estimates } from 'src/ui/charts/Estimate'
import { count, duration } from 'src/ui/format'
import { hasWords, type Key, t } from 'src/ui/i18n/t'
import { Hash, Progress, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Page, Stack } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

export default function OverviewPage() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { name, canManage } = useMembership(slug)
  const overview = useQuery(overviewQuery(slug))
  const project = useQuery(projectQuery(slug))
  const client = useQueryClient()
  const pause = useMutation({
    mutationFn: (paused: boolean) => patchProject(slug, { paused }),
    onSuccess: () => client.invalidateQueries({ queryKey: keys.project(slug) }),
  })
  const paused = project.data?.paused ?? false
  return (
    <Page
      title={name}
      intro={project.data?.question}
      actions={
        canManage && (
          <>
            {project.data && (
              <Button busy={pause.isPending} onClick={() => pause.mutate(!paused)}>
                {paused ? <Play size={16} aria-hidden="true" /> : <Pause size={16} aria-hidden="true" />}
                {paused ? t('overview.resume') : t('overview.pause')}
              </Button>
            )}
            <LinkButton href={`/r/${slug}/rounds?new=1`}>{t('overview.sample')}</LinkButton>
            <LinkButton href={`/r/${slug}/snapshots?freeze=1`} look="primary">
              {t('overview.freeze')}
            </LinkButton>
          </>
        )
      }
    >
      {pause.isError && <ErrorPanel what={t('overview.pauseFailed')} error={pause.error} />}
      {paused && <Notice tone="warn">{t('overview.pausedNotice')}</Notice>}
      <Loaded query={overview} what={t('overview.failed')} skeleton={<SkeletonBoxes boxes={4} height={140} />}>
        {(data) => <Panels slug={slug} data={data} project={project.data} canManage={canManage} />}
      </Loaded>
    </Page>
  )
}

type PanelsProps = { slug: string; data: Overview; project: Project | undefined; canManage: boolean }

function Panels({ slug, data, project, canManage }: PanelsProps) {
  const { agreement, rates } = data
  return (
    <>
      <Next slug={slug} data={data} canManage={canManage} />
      <Funnel slug={slug} counts={data.counts} round={data.round} />
      <div className={styles.top}>
        <Stack>
          <Card title={t('agreement.title')} note={t('agreement.note')}>
            <Estimates>
              <EstimateFigure label={t('agreement.percent')} estimate={agreement.percent} unit="percent" bar />
              <EstimateFigure
                label={t('agreement.alpha')}
                estimate={agreement.alpha}
                unit="coefficient"
                bar
                from={(agreement.alpha.low ?? 0) < 0 ? -1 : 0} // below 0: people agree less than chance
              />
              <EstimateFigure label={t('agreement.unanimous')} estimate={agreement.unanimous} unit="percent" bar />
            </Estimates>
          </Card>
          <People slug={slug} people={data.people} canManage={canManage} />
        </Stack>
        <Stack>
          <Needs slug={slug} data={data} canManage={canManage} />
          <Card title={t('rates.title')}>
            <p className="tabular">
              {rates.votes_last_hour === 0
                ? t('rates.none')
                : t('rates.now', {
                    votes: t('home.votes', { n: rates.votes_last_hour }),
                    people: t('rates.people', { n: rates.active_annotators }),
                  })}{' '}
              {rates.eta_hours === null
                ? t('rates.noEta')
                : t('rates.eta', { duration: duration(rates.eta_hours * 3600) })}
            </p>
            {project && canManage && <VotesWanted slug={slug} overlap={project.overlap} />}
          </Card>
          <Work slug={slug} data={data} />
        </Stack>
      </div>
    </>
  )
}

/** Votes wanted of each comparison. Less settles at once what has enough; frozen comparisons stay as they are. */
function VotesWanted({ slug, overlap }: { slug: string; overlap: number }) {
  const client = useQueryClient()
  const change = useMutation({
    mutationFn: (wanted: number) => patchProject(slug, { overlap: wanted }),
    onSuccess: () => client.invalidateQueries({ queryKey: keys.project(slug) }),
  })
  const offered = [...new Set([1, 2, 3, 4, 5, 7, 9, overlap])].sort((a, b) => a - b)
  return (
    <>
      <SelectField
        label={t('overview.votesWanted')}
        help={t('overview.votesWantedHelp')}
        value={change.isPending ? change.variables : overlap}
        onChange={(event) => change.mutate(Number(event.target.value))}
        options={offered.map((n) => [String(n), String(n)])}
      />
      {change.isError && <ErrorPanel what={t('overview.votesWantedFailed')} error={change.error} />}
    </>
  )
}

/** The one thing to do now, with why. */
function Next({ slug, data, canManage }: { slug: string; data: Overview; canManage: boolean }) {
  const { text, action, href } = nextStep(data, slug)
  return (
    <section className={styles.next} aria-label={t('nextStep.title')}>
      <div>
        <div className={styles.nextTitle}>{t('nextStep.title')}</div>
        <p>{text}</p>
      </div>
      {canManage && (
        <LinkButton look="primary" href={href.startsWith('~') ? href.slice(1) : `/r/${slug}${href}`}>
          {action}
          <ArrowRight size={16} aria-hidden="true" />
        </LinkButton>
      )}
    </section>
  )
}

type Step = { label: Key; value: number; href: string; notes: (string | false)[]; stuck?: boolean }

/** How far the data is; what is stuck is said under its step. Each leads to its table, filtered. */
function Funnel({ slug, counts, round }: { slug: string } & Pick<Overview, 'counts' | 'round'>) {
  const { prompts, completions, comparisons, votes, surplus, open, settled, disputed, withdrawn, leased } = counts
  const { adjudicated, wanted } = counts
  const stopped = round !== null && (round.status === 'failed' || round.status === 'cancelled')
  const steps: Step[] = [
    { label: 'funnel.prompts', value: prompts, href: '/data', notes: [] },
    {
      label: 'funnel.completions',
      value: completions,
      href: '/rounds',
      notes: [
        round !== null && round.failed > 0 && t('funnel.leftOut', { n: round.failed }),
        stopped && t('funnel.stopped', { number: round.number }),
      ],
      stuck: stopped,
    },
    {
      label: 'funnel.comparisons',
      value: comparisons,
      href: open > 0 ? '/comparisons?state=open' : '/comparisons',
      notes: [open > 0 && t('funnel.open', { n: open }), withdrawn > 0 && t('funnel.withdrawn', { n: withdrawn })],
    },
    {
      label: 'funnel.votes',
      value: votes,
      href: '/comparisons?state=open',
      notes: [
        wanted > 0 && t('funnel.wanted', { n: wanted }),
        leased > 0 && t('funnel.leased', { n: leased }),
        surplus > 0 && t('funnel.surplus', { n: surplus }),
      ],
    },
    {
      label: 'funnel.settled',
      value: settled + adjudicated,
      href: disputed > 0 ? '/comparisons?state=disputed' : '/comparisons?state=settled',
      notes: [
        disputed > 0 && t('funnel.disputed', { n: disputed }),
        adjudicated > 0 && t('funnel.adjudicated', { n: adjudicated }),
      ],
      stuck: disputed > 0,
    },
  ]
  return (
    <Card flush>
      <ol className={styles.funnel} aria-label={t('funnel.label')}>
        {steps.map(({ label, value, href, notes, stuck }) => (
          <li key={label}>
            <Link href={`/r/${slug}${href}`} className={styles.step}>
              <span className={styles.stepLabel}>{t(label)}</span>
              <span className={styles.stepValue}>{count(value)}</span>
              <span className={styles.stepNote} data-stuck={stuck || undefined}>
                {notes.filter(Boolean).join(' · ')}
              </span>
            </Link>
          </li>
        ))}
      </ol>
      {comparisons > 0 && (
        <div className={styles.settled}>
          <Progress
            label={t('funnel.settledShare')}
            value={settled + adjudicated + disputed}
            max={comparisons - withdrawn}
          />
        </div>
      )}
    </Card>
  )
}

type Need = { text: string; action: ReactNode }

function needs(slug: string, { counts, jobs, alarms }: Overview): Need[] {
  const link = (href: string, label: string) => (
    <LinkButton small href={`/r/${slug}${href}`}>
      {label}
    </LinkButton>
  )
  const list: Need[] = []
  const failed = jobs.find((job) => job.status === 'failed')
  const stalled = jobs.find((job) => job.phase === 'stalled')
  const ringing = alarmTotal(alarms)
  if (ringing > 0) {
    list.push({
      text: t('alarms.needs', { n: ringing, names: alarmNames(alarms) }),
      action: link('/alarms', t('needs.look')),
    })
  }
  if (stalled)
    list.push({
      text: t('needs.stalled', { title: stalled.title }),
      action: link(`/jobs/${stalled.id}`, t('needs.look')),
    })
  if (failed)
    list.push({ text: t('needs.failed', { title: failed.title }), action: link(`/jobs/${failed.id}`, t('needs.look')) })
  if (counts.disputed > 0) {
    list.push({
      text: t('needs.disputed', { n: counts.disputed }),
      action: link('/adjudicate', t('nextStep.adjudicate.do')),
    })
  }
  return list
}

function Needs({ slug, data, canManage }: { slug: string; data: Overview; canManage: boolean }) {
  // What comes next stands above already.
  const list = needs(slug, data).filter(({ text }) => text !== nextStep(data, slug).text)
  return (
    <Card title={t('needs.title')}>
      {list.length === 0 ? (
        <p className="muted">{t('needs.nothing')}</p>
      ) : (
        <ul className={styles.needs}>
          {list.map(({ text, action }) => (
            <li key={text}>
              <span>{text}</span>
              {canManage && action}
            </li>
          ))}
        </ul>
      )}
    </Card>
  )
}

const personColumns = (): Column<Person>[] => [
  { name: 'name', header: t('people.name'), cell: (person) => person.name },
  {
    name: 'role',
    header: t('people.role'),
    cell: (person) => (
      <span className="muted">
        {hasWords(`role.${person.role}`) ? t(`role.${person.role}` as 'role.owner') : person.role}
      </span>
    ),
  },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: (person) => count(person.votes) },
  { name: 'median', header: t('people.median'), align: 'end', cell: (person) => duration(person.median_seconds) },
  { name: 'last', header: t('people.last'), align: 'end', cell: (person) => <Time at={person.last_vote_at} /> },
]

function People({ slug, people, canManage }: { slug: string; people: Person[]; canManage: boolean }) {
  return (
    <Card
      title={t('people.title')}
      actions={
        canManage && (
          <LinkButton small href={`/r/${slug}/setup?step=people`}>
            <UserPlus size={15} aria-hidden="true" />
            {t('overview.invite')}
          </LinkButton>
        )
      }
      flush
    >
      {people.length === 0 ? (
        <Empty icon={Users} title={t('people.none')}>
          {t('people.noneText')}
        </Empty>
      ) : (
        <DataTable
          caption={t('people.title')}
          columns={personColumns()}
          rows={people}
          rowKey={(person) => person.name}
        />
      )}
    </Card>
  )
}

function Work({ slug, data: { round, jobs, snapshot } }: { slug: string; data: Overview }) {
  return (
    <>
      {round && (
        <Card title={t('round.title', { number: round.number })} actions={<JobStatus status={round.status} />}>
          <Progress label={t('round.progress')} value={round.completions_done} max={round.completions_wanted} />
          <p className="muted small tabular">
            {t('round.done', { done: round.completions_done, wanted: round.completions_wanted })}
            {round.eta_seconds !== null && ` · ${t('round.left', { duration: duration(round.eta_seconds) })}`}
          </p>
        </Card>
      )}
      <Card title={t('overview.jobs')} actions={<Link href={`/r/${slug}/jobs`}>{t('overview.allJobs')}</Link>}>
        {jobs.length === 0 ? (
          <p className="muted">{t('overview.noJobs')}</p>
        ) : (
          jobs.map((job) => (
            <div key={job.id} className={styles.job}>
              <Link href={`/r/${slug}/jobs/${job.id}`}>{job.title}</Link>
              <JobStatus status={job.status} phase={job.phase} />
              <span className="muted small">
                <Time at={job.created_at} />
              </span>
            </div>
          ))
        )}
      </Card>
      <Card
        title={t('overview.snapshot')}
        actions={<Link href={`/r/${slug}/snapshots`}>{t('overview.allSnapshots')}</Link>}
      >
        {snapshot ? (
          <p>
            <Link href={`/r/${slug}/snapshots/${snapshot.id}`}>
              {snapshot.name || t('snapshot.title', { number: snapshot.number })}
            </Link>
            <br />
            <span className="muted small tabular">
              {t('snapshot.preferences', { n: snapshot.counts.total })} · sha256 <Hash value={snapshot.content_hash} />
            </span>
          </p>
        ) : (
          <p className="muted">{t('overview.noSnapshot')}</p>
        )}
      </Card>
    </>
  )
}
