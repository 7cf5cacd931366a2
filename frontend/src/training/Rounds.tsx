/** Sampling completions from policies, and the comparisons that come of it. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Layers, Play, Plus, Square } from 'lucide-react'
import { continueRound, stopRound } from 'src/api/evaluationsApi'
import { useMembership } from 'src/api/membership'
import { isOver, roundsQuery } from 'src/api/queries'
import type { Round, RoundPolicy } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { age, FreshnessCard } from 'src/training/FreshnessCard'
import { NewRound } from 'src/training/NewRound'
import styles from 'src/training/Rounds.module.css'
import { STRATEGIES } from 'src/training/roundPlan'
import { ScheduleCard } from 'src/training/Schedule'
import { duration, measured, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Badge, Progress, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Columns, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

export default function Rounds() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, change] = useAddress()
  const list = useInfiniteQuery(roundsQuery(slug))
  const open = search.get('new') === '1'
  const toggle = (on: boolean) => change(on ? { new: '1' } : { new: '', policy: '' })
  const button = canManage && (
    <Button look="primary" onClick={() => toggle(true)}>
      <Plus size={16} aria-hidden="true" />
      {t('round.new')}
    </Button>
  )
  return (
    <Page title={t('nav.rounds')} intro={t('round.intro')} actions={button}>
      <Columns width={400}>
        <FreshnessCard slug={slug} />
        <ScheduleCard slug={slug} canManage={canManage} />
      </Columns>
      <Card flush>
        <Loaded
          query={list}
          what={t('round.failed')}
          skeleton={
            <div style={{ padding: '0 24px' }}>
              <Skeleton rows={6} />
            </div>
          }
        >
          {(rounds) =>
            rounds.length === 0 ? (
              <Empty icon={Layers} title={t('round.none')} action={button}>
                {t('round.noneText')}
              </Empty>
            ) : (
              <>
                {rounds.map((round) => (
                  <RoundRow key={round.id} slug={slug} round={round} canManage={canManage} />
                ))}
                {list.hasNextPage && (
                  <div className={styles.round}>
                    <Button small onClick={() => void list.fetchNextPage()}>
                      {t('action.more')}
                    </Button>
                  </div>
                )}
              </>
            )
          }
        </Loaded>
      </Card>
      {open && canManage && (
        <NewRound slug={slug} preselected={search.getAll('policy')} onClose={() => toggle(false)} />
      )}
    </Page>
  )
}

/** What is a policy's own of the sampling, in words. */
function own({ weight, completions, temperature }: RoundPolicy): string {
  return [
    weight !== null && t('round.ownWeight', { weight: String(weight) }),
    completions !== null && t('round.ownCompletions', { n: completions }),
    temperature !== null && t('round.ownTemperature', { temperature: String(temperature) }),
  ]
    .filter((words) => words !== false)
    .join(', ')
}

function RoundRow({ slug, round, canManage }: { slug: string; round: Round; canManage: boolean }) {
  const live = !isOver(round)
  return (
    <section className={styles.round} aria-label={t('round.title', { number: round.number })}>
      <div className={styles.head}>
        <h2>
          {t('round.title', { number: round.number })}
          {round.name && <span className="muted"> · {round.name}</span>}
        </h2>
        {round.purpose === 'evaluation' && <Badge>{t('round.forEvaluation')}</Badge>}
        <JobStatus status={round.status} />
        <span className="muted small">
          <Time at={round.created_at} />
        </span>
      </div>
      <ul className={styles.policies}>
        {round.policies.map((policy) => (
          <li key={policy.id}>
            <Link href={`/r/${slug}/policies/${policy.id}`}>{policy.name}</Link>
            {own(policy) && <span className="muted small"> {own(policy)}</span>}
          </li>
        ))}
      </ul>
      {round.opened_for && (
        <p className="muted small">
          {t('round.openedFor')}{' '}
          <Link href={`/r/${slug}/policies/${round.opened_for.id}`}>{round.opened_for.name}</Link>
        </p>
      )}
      {live && <Progress label={t('round.progress')} value={round.completions_done} max={round.completions_wanted} />}
      <RoundFigures round={round} live={live} />
      {round.status === 'failed' && round.error && <p className={styles.error}>{round.error}</p>}
      <RoundTools slug={slug} round={round} canManage={canManage} />
    </section>
  )
}

function RoundFigures({ round, live }: { round: Round; live: boolean }) {
  const { sampling, pairing } = round
  const strategy = STRATEGIES.find((name) => name === pairing.strategy)
  const only = [...(pairing.categories ?? []), ...(pairing.languages ?? [])].join(', ')
  return (
    <div className={styles.figures}>
      <span>{t('round.done', { done: round.completions_done, wanted: round.completions_wanted })}</span>
      {live && round.rate_per_minute !== null && (
        <span>{t('round.rate', { rate: measured(round.rate_per_minute) })}</span>
      )}
      {live && round.eta_seconds !== null && <span>{t('round.left', { duration: duration(round.eta_seconds) })}</span>}
      <span>{t('round.prompts', { n: round.prompts })}</span>
      {only && <span>{t('round.only', { only })}</span>}
      {pairing.fresh && <span>{t('round.freshOnly')}</span>}
      <span>{t('round.comparisons', { n: round.comparisons })}</span>
      {round.share_from_current !== null && (
        <span>{t('round.fromCurrent', { share: percent(round.share_from_current) })}</span>
      )}
      {!live && <span>{t('round.age', { age: age(round.age_days) })}</span>}
      {round.failed > 0 && <span title={t('round.failedWhy')}>{t('round.leftOut', { n: round.failed })}</span>}
      {strategy && <span>{t(`pairing.${strategy}`)}</span>}
      <span>
        {t('round.sampling', {
          completions: round.completions,
          temperature: String(sampling.temperature),
          top: String(sampling.top_p),
          tokens: sampling.max_new_tokens,
          seed: String(sampling.seed),
        })}
      </span>
    </div>
  )
}

function RoundTools({ slug, round, canManage }: { slug: string; round: Round; canManage: boolean }) {
  const act = useWrite(slug, (what: 'stop' | 'go on') =>
    what === 'stop' ? stopRound(slug, round.id) : continueRound(slug, round.id),
  )
  return (
    <>
      <div className={styles.tools}>
        {canManage && round.can.stop && (
          <Button small busy={act.isPending} onClick={() => act.mutate('stop')}>
            <Square size={14} aria-hidden="true" />
            {t('round.stop')}
          </Button>
        )}
        {canManage && round.can.go_on && (
          <Button small busy={act.isPending} onClick={() => act.mutate('go on')}>
            <Play size={14} aria-hidden="true" />
            {t('round.goOn')}
          </Button>
        )}
        {round.comparisons > 0 && (
          <LinkButton small href={`/r/${slug}/comparisons?round=${round.id}`}>
            {t('round.seeComparisons')}
          </LinkButton>
        )}
        {round.job && (
          <LinkButton small look="quiet" href={`/r/${slug}/jobs/${round.job}`}>
            {t('round.seeJob')}
          </LinkButton>
        )}
      </div>
      {act.isError && <ErrorPanel what={t('round.actFailed')} error={act.error} />}
    </>
  )
}
