/** Start an evaluation: two policies, a set of prompts, and who judges what they write. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Plus, Swords, Trash2 } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { startEvaluation } from 'src/api/evaluationsApi'
import { modelListQuery } from 'src/api/modelsApi'
import { overviewQuery } from 'src/api/queries'
import type { Model } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/training/Evaluations.module.css'
import { ServedJudgeFields } from 'src/training/JudgeFields'
import { type EvaluationDraft, evaluationBody, judgesBody, NEW_EVALUATION } from 'src/training/judges'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, SelectField, TextField } from 'src/ui/widgets/Field'
import { Empty, ErrorPanel, Loaded } from 'src/ui/widgets/States'
import { Link, useLocation } from 'wouter'

type Props = { slug: string; chosen: { first: string; second: string }; onClose: () => void }

export function NewEvaluation({ slug, chosen, onClose }: Props) {
  const models = useInfiniteQuery(modelListQuery(slug, 'no'))
  return (
    <Loaded query={models} what={t('models.failed')} skeleton={null}>
      {(all) => <Form slug={slug} models={all} chosen={chosen} onClose={onClose} />}
    </Loaded>
  )
}

/** The policy that the project goes on from against what it was made of, unless the address says otherwise. */
function firstChoice(policies: Model[], chosen: Props['chosen']): Pick<EvaluationDraft, 'first' | 'second'> {
  const has = (id: string) => policies.some((model) => model.id === id)
  const current = policies.find((model) => model.is_current) ?? policies[0]
  const first = has(chosen.first) ? chosen.first : (current?.id ?? '')
  const base = policies.find((model) => model.id === first)?.base?.id ?? ''
  const other = policies.find((model) => model.id !== first)?.id ?? ''
  const second =
    has(chosen.second) && chosen.second !== first ? chosen.second : has(base) && base !== first ? base : other
  return { first, second }
}

function Form({ slug, models, chosen, onClose }: Props & { models: Model[] }) {
  const [, go] = useLocation()
  const policies = models.filter(({ kind }) => kind === 'policy')
  const rewards = models.filter(({ kind }) => kind === 'reward')
  const prompts = useQuery(overviewQuery(slug)).data?.counts.prompts
  const [draft, setDraft] = useState<EvaluationDraft>(() => ({ ...NEW_EVALUATION, ...firstChoice(policies, chosen) }))
  const [tried, setTried] = useState(false)
  const set = (part: Partial<EvaluationDraft>) => setDraft({ ...draft, ...part })
  const start = useWrite(
    slug,
    () => startEvaluation(slug, evaluationBody(draft)),
    ({ id }) => go(`/r/${slug}/evaluations/${id}`),
  )
  const errors = fieldErrors(start.error)
  const same = draft.first === draft.second
  const nobody = judgesBody(draft).length === 0
  const names = policies.map(({ id, name, is_current }): [string, string] => [
    id,
    is_current ? t('round.currentPolicy', { name }) : name,
  ])
  return (
    <Dialog
      title={t('evaluation.newTitle')}
      width={760}
      onClose={onClose}
      onSubmit={() => {
        setTried(true)
        if (!same && !nobody) start.mutate(undefined)
      }}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={start.isPending} disabled={policies.length < 2}>
            {t('evaluation.start')}
          </Button>
        </>
      }
    >
      {policies.length < 2 ? (
        <Empty
          icon={Swords}
          title={t('evaluation.tooFew')}
          action={<Link href={`/r/${slug}/policies`}>{t('nav.models')}</Link>}
        >
          {t('evaluation.tooFewText')}
        </Empty>
      ) : (
        <>
          <div className={styles.form}>
            <SelectField
              label={t('evaluation.first')}
              help={t('evaluation.firstHelp')}
              error={errors.first}
              value={draft.first}
              onChange={({ target }) => set({ first: target.value })}
              options={names}
            />
            <SelectField
              label={t('evaluation.second')}
              error={errors.second ?? (tried && same ? t('evaluation.same') : undefined)}
              value={draft.second}
              onChange={({ target }) => set({ second: target.value })}
              options={names}
            />
            <TextField
              label={t('round.promptsField')}
              help={t('evaluation.promptsHelp')}
              error={errors.prompts}
              inputMode="numeric"
              value={draft.prompts}
              placeholder={prompts === undefined ? undefined : t('round.allPrompts', { n: prompts })}
              onChange={({ target }) => set({ prompts: target.value })}
            />
          </div>
          <Judges draft={draft} rewards={rewards} errors={errors} set={set} />
          {tried && nobody && (
            <p className={styles.error} role="alert">
              {t('evaluation.nobody')}
            </p>
          )}
          <details className={styles.more}>
            <summary>{t('evaluation.sampling')}</summary>
            <Sampling draft={draft} errors={errors} set={set} />
          </details>
          <TextField
            label={t('round.nameField')}
            error={errors.name}
            value={draft.name}
            onChange={({ target }) => set({ name: target.value })}
          />
        </>
      )}
      {start.isError && <ErrorPanel what={t('evaluation.notStarted')} error={start.error} />}
    </Dialog>
  )
}

type PartProps = {
  draft: EvaluationDraft
  errors: Record<string, string>
  set: (part: Partial<EvaluationDraft>) => void
}

function Sampling({ draft, errors, set }: PartProps) {
  const fields = [
    ['completions', t('round.completionsField'), t('evaluation.completionsHelp')],
    ['temperature', t('round.temperatureField'), undefined],
    ['top_p', t('round.topField'), undefined],
    ['max_new_tokens', t('round.tokensField'), undefined],
    ['seed', t('round.seedField'), undefined],
  ] as const
  return (
    <div className={styles.form}>
      {fields.map(([name, label, help]) => (
        <TextField
          key={name}
          label={label}
          help={help}
          error={errors[`sampling.${name}`] ?? errors[name]}
          inputMode="decimal"
          value={draft.sampling[name]}
          onChange={({ target }) => set({ sampling: { ...draft.sampling, [name]: target.value } })}
        />
      ))}
    </div>
  )
}

function Judges({ draft, rewards, errors, set }: PartProps & { rewards: Model[] }) {
  const [next, setNext] = useState(1)
  return (
    <>
      <ChoiceGroup legend={t('evaluation.judges')} error={errors.judges}>
        <ChoiceCard
          kind="checkbox"
          label={t('judge.people')}
          note={t('judge.peopleHelp')}
          checked={draft.people}
          onChange={({ target }) => set({ people: target.checked })}
        />
        {rewards.map(({ id, name }) => (
          <ChoiceCard
            key={id}
            kind="checkbox"
            label={name}
            note={t('judge.rewardHelp')}
            checked={draft.rewards.includes(id)}
            onChange={({ target }) =>
              set({
                rewards: target.checked ? [...draft.rewards, id] : draft.rewards.filter((other) => other !== id),
              })
            }
          />
        ))}
      </ChoiceGroup>
      {draft.people && (
        <div className={styles.form}>
          <TextField
            label={t('round.overlapField')}
            help={t('round.overlapHelp')}
            error={errors.overlap}
            inputMode="numeric"
            value={draft.overlap}
            onChange={({ target }) => set({ overlap: target.value })}
          />
          <TextField
            label={t('pairing.priority')}
            help={t('pairing.priorityHelp')}
            error={errors.priority}
            inputMode="numeric"
            value={draft.priority}
            onChange={({ target }) => set({ priority: target.value })}
          />
        </div>
      )}
      {draft.served.map((judge, index) => (
        <fieldset key={judge.key} className={styles.judge}>
          <legend>{t('judge.servedTitle', { number: index + 1 })}</legend>
          <ServedJudgeFields
            judge={judge}
            errors={errors}
            onChange={(changed) => set({ served: draft.served.map((one) => (one === judge ? changed : one)) })}
          />
          <Button
            small
            look="quiet"
            onClick={() => set({ served: draft.served.filter((one) => one !== judge) })}
            aria-label={t('judge.removeNamed', { number: index + 1 })}
          >
            <Trash2 size={15} aria-hidden="true" />
            {t('judge.remove')}
          </Button>
        </fieldset>
      ))}
      <div>
        <Button
          small
          onClick={() => {
            set({ served: [...draft.served, { key: next, url: '', model: '', prompt: '' }] })
            setNext(next + 1)
          }}
        >
          <Plus size={15} aria-hidden="true" />
          {t('judge.addServed')}
        </Button>
      </div>
    </>
  )
}
