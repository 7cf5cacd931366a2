/** Sampling completions from policies, and the comparisons that come of it. */
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Layers, Plus } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { createRound, isOver, keys, modelsQuery, overviewQuery, roundsQuery } from 'src/api/queries'
import type { Round } from 'src/api/schema'
import styles from 'src/training/Rounds.module.css'
import { count, duration, measured, short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Progress, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, TextField } from 'src/ui/widgets/Field'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link, useParams, useSearchParams } from 'wouter'

const MOST_POLICIES = 4

export default function Rounds() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, setSearch] = useSearchParams()
  const list = useInfiniteQuery(roundsQuery(slug))
  const open = search.get('new') === '1'
  const toggle = (on: boolean) =>
    setSearch(
      (params) => {
        if (on) params.set('new', '1')
        else {
          params.delete('new')
          params.delete('policy')
        }
        return params
      },
      { replace: true },
    )
  const button = canManage && (
    <Button look="primary" onClick={() => toggle(true)}>
      <Plus size={16} aria-hidden="true" />
      {t('round.new')}
    </Button>
  )
  return (
    <Page title={t('nav.rounds')} intro={t('round.intro')} actions={button}>
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
                  <RoundRow key={round.id} slug={slug} round={round} />
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

function RoundRow({ slug, round }: { slug: string; round: Round }) {
  const { sampling } = round
  const live = !isOver(round)
  return (
    <section className={styles.round} aria-label={t('round.title', { number: round.number })}>
      <div className={styles.head}>
        <h2>
          {t('round.title', { number: round.number })}
          {round.name && <span className="muted"> · {round.name}</span>}
        </h2>
        <JobStatus status={round.status} />
        <span className="muted small">
          <Time at={round.created_at} />
        </span>
      </div>
      <div>{round.policies.map((policy) => policy.name).join(' · ')}</div>
      {live && <Progress label={t('round.progress')} value={round.completions_done} max={round.completions_wanted} />}
      <div className={styles.figures}>
        <span>{t('round.done', { done: round.completions_done, wanted: round.completions_wanted })}</span>
        {live && round.rate_per_minute !== null && (
          <span>{t('round.rate', { rate: measured(round.rate_per_minute) })}</span>
        )}
        {live && round.eta_seconds !== null && (
          <span>{t('round.left', { duration: duration(round.eta_seconds) })}</span>
        )}
        <span>{t('round.prompts', { n: round.prompts })}</span>
        <span>{t('round.comparisons', { n: round.comparisons })}</span>
        {round.failed > 0 && <span title={t('round.failedWhy')}>{t('round.leftOut', { n: round.failed })}</span>}
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
      {round.error && <p className={styles.error}>{round.error}</p>}
      <div className={styles.tools}>
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
    </section>
  )
}

type Draft = Record<
  'name' | 'prompts' | 'completions' | 'temperature' | 'top_p' | 'max_new_tokens' | 'seed' | 'overlap',
  string
>

const DEFAULTS: Draft = {
  name: '',
  prompts: '',
  completions: '2',
  temperature: '1.0',
  top_p: '1.0',
  max_new_tokens: '128',
  seed: '1',
  overlap: '',
}

function NewRound({ slug, preselected, onClose }: { slug: string; preselected: string[]; onClose: () => void }) {
  const client = useQueryClient()
  const models = useInfiniteQuery(modelsQuery(slug))
  const prompts = useQuery(overviewQuery(slug)).data?.counts.prompts
  const [chosen, setChosen] = useState<string[]>(preselected)
  const [draft, setDraft] = useState(DEFAULTS)
  const [missing, setMissing] = useState(false)
  const create = useMutation({
    mutationFn: () =>
      createRound(slug, {
        policies: chosen,
        completions: Number(draft.completions),
        temperature: Number(draft.temperature),
        top_p: Number(draft.top_p),
        max_new_tokens: Number(draft.max_new_tokens),
        seed: Number(draft.seed),
        ...(draft.prompts ? { prompts: Number(draft.prompts) } : {}),
        ...(draft.overlap ? { overlap: Number(draft.overlap) } : {}),
        ...(draft.name.trim() ? { name: draft.name.trim() } : {}),
      }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: keys.project(slug) })
      onClose()
    },
  })
  const errors = fieldErrors(create.error)
  const field = (name: keyof Draft, label: string, help?: string) => (
    <TextField
      label={label}
      help={help}
      error={errors[name] ?? errors[`sampling.${name}`]}
      inputMode={name === 'name' ? 'text' : 'decimal'}
      value={draft[name]}
      placeholder={name === 'prompts' && prompts !== undefined ? t('round.allPrompts', { n: prompts }) : undefined}
      onChange={(event) => setDraft({ ...draft, [name]: event.target.value })}
    />
  )
  const used = draft.prompts ? Number(draft.prompts) : prompts
  const total = used === undefined ? null : used * chosen.length * Number(draft.completions)
  return (
    <Dialog
      title={t('round.newTitle')}
      onClose={onClose}
      width={720}
      onSubmit={() => (chosen.length === 0 ? setMissing(true) : create.mutate())}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={create.isPending}>
            {total !== null && Number.isFinite(total) && total > 0
              ? t('round.start', { n: total })
              : t('round.startPlain')}
          </Button>
        </>
      }
    >
      <Loaded query={models} what={t('models.failed')} skeleton={<Skeleton rows={3} />}>
        {(all) => {
          const policies = all.filter((model) => model.kind === 'policy')
          return policies.length === 0 ? (
            <Empty
              icon={Layers}
              title={t('round.noPolicies')}
              action={<Link href={`/r/${slug}/policies`}>{t('nav.models')}</Link>}
            />
          ) : (
            <ChoiceGroup
              legend={t('round.policies', { n: MOST_POLICIES })}
              error={errors.policies ?? (missing && chosen.length === 0 ? t('round.missing') : undefined)}
            >
              {policies.map((model) => (
                <ChoiceCard
                  key={model.id}
                  kind="checkbox"
                  label={model.name}
                  note={
                    <>
                      {model.parameters !== null && `${t('models.parametersShort', { n: short(model.parameters) })} · `}
                      <Time at={model.created_at} />
                    </>
                  }
                  checked={chosen.includes(model.id)}
                  disabled={!chosen.includes(model.id) && chosen.length >= MOST_POLICIES}
                  onChange={(event) =>
                    setChosen(event.target.checked ? [...chosen, model.id] : chosen.filter((id) => id !== model.id))
                  }
                />
              ))}
            </ChoiceGroup>
          )
        }}
      </Loaded>
      <div className={styles.form}>
        {field('prompts', t('round.promptsField'))}
        {field('completions', t('round.completionsField'), t('round.completionsHelp'))}
        {field('overlap', t('round.overlapField'), t('round.overlapHelp'))}
        {field('temperature', t('round.temperatureField'))}
        {field('top_p', t('round.topField'))}
        {field('max_new_tokens', t('round.tokensField'))}
        {field('seed', t('round.seedField'))}
        {field('name', t('round.nameField'))}
      </div>
      {create.isError && Object.keys(errors).length === 0 && (
        <ErrorPanel what={t('round.createFailed')} error={create.error} />
      )}
      {total !== null && Number.isFinite(total) && total > 0 && (
        <p className="muted small">
          {t('round.estimate', { prompts: count(used ?? 0), policies: chosen.length, each: Number(draft.completions) })}
        </p>
      )}
    </Dialog>
  )
}
