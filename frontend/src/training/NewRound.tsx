/** Start a round: policies, each with what is its own of the sampling, then the plan. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Layers } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { createRound, modelsQuery, overviewQuery } from 'src/api/queries'
import type { Model } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { RoundFields } from 'src/training/RoundFields'
import styles from 'src/training/Rounds.module.css'
import { completionsOf, mixBody, NEW_PLAN, newShare, planBody, type Share, typed } from 'src/training/roundPlan'
import { count, short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, TextField } from 'src/ui/widgets/Field'
import { Empty, ErrorPanel, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const MOST_POLICIES = 4

type NewRoundProps = { slug: string; preselected: string[]; onClose: () => void }

export function NewRound({ slug, preselected, onClose }: NewRoundProps) {
  const models = useInfiniteQuery(modelsQuery(slug))
  const prompts = useQuery(overviewQuery(slug)).data?.counts.prompts
  const [chosen, setChosen] = useState<Share[] | null>(null)
  const shares = chosen ?? firstChoice(preselected, models.data ?? [])
  const [plan, setPlan] = useState(NEW_PLAN)
  const [name, setName] = useState('')
  const [missing, setMissing] = useState(false)
  const create = useWrite(
    slug,
    () => createRound(slug, { ...planBody(plan), ...mixBody(shares), ...(name.trim() && { name: name.trim() }) }),
    onClose,
  )
  const errors = fieldErrors(create.error)
  const isFiltered = plan.fresh || plan.categories.trim() !== '' || plan.languages.trim() !== ''
  const used = typed(plan.prompts) ?? prompts
  const each = completionsOf(shares, plan.completions)
  const total = used === undefined ? Number.NaN : used * each
  const hasTotal = Number.isFinite(total) && total > 0
  return (
    <Dialog
      title={t('round.newTitle')}
      onClose={onClose}
      width={760}
      onSubmit={() => (shares.length === 0 ? setMissing(true) : create.mutate(undefined))}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={create.isPending}>
            {hasTotal && !isFiltered ? t('round.start', { n: total }) : t('round.startPlain')}
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
            <Policies
              policies={policies}
              shares={shares}
              error={errors.policies ?? errors.mix ?? (missing && shares.length === 0 ? t('round.missing') : undefined)}
              errors={errors}
              onChange={setChosen}
            />
          )
        }}
      </Loaded>
      <RoundFields {...{ slug, errors }} draft={plan} allPrompts={prompts} onChange={setPlan} />
      <TextField
        label={t('round.nameField')}
        error={errors.name}
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      {create.isError && <ErrorPanel what={t('round.createFailed')} error={create.error} />}
      {hasTotal && (
        <p className="muted small">
          {t(isFiltered ? 'round.atMost' : 'round.sum', { prompts: count(used ?? 0), each, total: count(total) })}
        </p>
      )}
    </Dialog>
  )
}

/** Those that the address names; else the policy that the project goes on from, or the only one that there is. */
function firstChoice(named: string[], models: Model[]): Share[] {
  if (named.length > 0) return named.slice(0, MOST_POLICIES).map(newShare)
  const policies = models.filter((model) => model.kind === 'policy')
  const usual = policies.find((model) => model.is_current) ?? (policies.length === 1 ? policies[0] : undefined)
  return usual ? [newShare(usual.id)] : []
}

type PoliciesProps = {
  policies: Model[]
  shares: Share[]
  error?: string
  errors: Record<string, string>
  onChange: (shares: Share[]) => void
}

function Policies({ policies, shares, error, errors, onChange }: PoliciesProps) {
  const nameOf = (id: string) => policies.find((model) => model.id === id)?.name ?? id
  const isChosen = (id: string) => shares.some(({ model }) => model === id)
  return (
    <>
      <ChoiceGroup legend={t('round.policies', { n: MOST_POLICIES })} error={error}>
        {policies.map((model) => (
          <ChoiceCard
            key={model.id}
            kind="checkbox"
            label={model.is_current ? t('round.currentPolicy', { name: model.name }) : model.name}
            note={
              <>
                {model.parameters !== null && `${t('models.parametersShort', { n: short(model.parameters) })} · `}
                <Time at={model.created_at} />
              </>
            }
            checked={isChosen(model.id)}
            disabled={!isChosen(model.id) && shares.length >= MOST_POLICIES}
            onChange={({ target }) =>
              onChange(
                target.checked ? [...shares, newShare(model.id)] : shares.filter((share) => share.model !== model.id),
              )
            }
          />
        ))}
      </ChoiceGroup>
      {shares.length > 0 && (
        <details className={styles.more}>
          <summary>{t('round.own')}</summary>
          <p className="muted small">{t('round.ownHelp')}</p>
          {shares.map((share, index) => (
            <fieldset key={share.model} className={styles.part}>
              <legend>{nameOf(share.model)}</legend>
              <div className={styles.form}>
                {(['weight', 'completions', 'temperature'] as const).map((field) => (
                  <TextField
                    key={field}
                    label={t(`round.own.${field}`)}
                    inputMode="decimal"
                    placeholder={t(field === 'weight' ? 'round.own.equal' : 'round.own.same')}
                    error={errors[`mix.${index}.${field}`]}
                    value={share[field]}
                    onChange={({ target }) =>
                      onChange(shares.map((one) => (one === share ? { ...share, [field]: target.value } : one)))
                    }
                  />
                ))}
              </div>
            </fieldset>
          ))}
        </details>
      )}
    </>
  )
}
