/** The fields of a round's plan: which prompts, how they are sampled, and how the completions meet. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import type { ReactNode } from 'react'
import { roundsQuery } from 'src/api/queries'
import { sourcesQuery } from 'src/api/setup'
import styles from 'src/training/Rounds.module.css'
import { OBJECTIVES, type PlanDraft, type PlanText, STRATEGIES } from 'src/training/roundPlan'
import { t } from 'src/ui/i18n/t'
import { ChoiceCard, ChoiceGroup, SelectField, TextField } from 'src/ui/widgets/Field'
import { SourcesField } from 'src/ui/widgets/SourcesField'

type Props = {
  slug: string
  draft: PlanDraft
  errors: Record<string, string>
  /** How many prompts there are, once it is known. */
  allPrompts?: number
  onChange: (draft: PlanDraft) => void
}

export function RoundFields({ slug, draft, errors, allPrompts, onChange }: Props) {
  const set = (part: Partial<PlanDraft>) => onChange({ ...draft, ...part })
  const field = (name: PlanText, label: string, help?: ReactNode, placeholder?: string) => (
    <TextField
      label={label}
      help={help}
      error={errors[name] ?? errors[`sampling.${name}`]}
      inputMode={['categories', 'languages', 'skills', 'language'].includes(name) ? 'text' : 'decimal'}
      value={draft[name]}
      placeholder={placeholder}
      onChange={(event) => set({ [name]: event.target.value })}
    />
  )
  const wrong = (...names: PlanText[]) => names.some((name) => errors[name] ?? errors[`sampling.${name}`])
  const touched = (...names: PlanText[]) => names.some((name) => draft[name].trim() !== '') || wrong(...names)
  return (
    <>
      <Part title={t('round.part.prompts')}>
        {field(
          'prompts',
          t('round.promptsField'),
          t('round.promptsHelp'),
          allPrompts === undefined ? undefined : t('round.allPrompts', { n: allPrompts }),
        )}
        {field('completions', t('round.completionsField'), t('round.completionsHelp'))}
        {field('max_new_tokens', t('round.tokensField'))}
        <Rest open={draft.fresh || touched('categories', 'languages') || wrong('temperature', 'top_p', 'seed')}>
          {field('categories', t('round.categories'), t('round.onlyHelp'))}
          {field('languages', t('round.languages'), t('round.onlyHelp'))}
          <div className={styles.whole}>
            <ChoiceCard
              kind="checkbox"
              label={t('round.fresh')}
              note={t('round.freshHelp')}
              checked={draft.fresh}
              onChange={(event) => set({ fresh: event.target.checked })}
            />
          </div>
          {field('temperature', t('round.temperatureField'))}
          {field('top_p', t('round.topField'))}
          {field('seed', t('round.seedField'))}
        </Rest>
      </Part>
      <Part title={t('round.part.meeting')}>
        <SelectField
          label={t('pairing.strategy')}
          help={t(`pairing.${draft.strategy}.note`)}
          error={errors.strategy}
          value={draft.strategy}
          onChange={({ target }) => set({ strategy: STRATEGIES.find((name) => name === target.value) })}
          options={STRATEGIES.map((name): [string, string] => [name, t(`pairing.${name}`)])}
        />
        {draft.strategy === 'information' && (
          <>
            <SelectField
              label={t('pairing.objective')}
              help={t(`pairing.objective.${draft.objective}.help`)}
              error={errors.objective}
              value={draft.objective}
              onChange={({ target }) => set({ objective: OBJECTIVES.find((name) => name === target.value) })}
              options={OBJECTIVES.map((name): [string, string] => [name, t(`pairing.objective.${name}`)])}
            />
            {field('control_share', t('pairing.control'), t('pairing.controlHelp'))}
          </>
        )}
        {field('overlap', t('round.overlapField'), t('round.overlapHelp'))}
        <Rest open={touched('per_prompt', 'priority', 'language', 'skills')}>
          {field('per_prompt', t('round.perPrompt'), t('pairing.perPromptHelp'))}
          {field('priority', t('pairing.priority'), t('pairing.priorityHelp'))}
          {field('language', t('round.judgeLanguage'), t('round.judgeLanguageHelp'))}
          {field('skills', t('pairing.skills'), t('pairing.skillsHelp'))}
        </Rest>
      </Part>
      <Opponents {...{ slug, draft, errors, onChange }} />
    </>
  )
}

function Part({ title, children }: { title: string; children: ReactNode }) {
  return (
    <fieldset className={styles.part}>
      <legend>{title}</legend>
      <div className={styles.form}>{children}</div>
    </fieldset>
  )
}

/** What a usual round leaves as it is; open where something is set or wrong there. */
function Rest({ open, children }: { open: boolean; children: ReactNode }) {
  return (
    <details className={`${styles.more} ${styles.whole}`} open={open || undefined}>
      <summary>{t('round.more')}</summary>
      <div className={styles.form}>{children}</div>
    </details>
  )
}

const toggled = (list: string[], id: string, on: boolean): string[] =>
  on ? [...list, id] : list.filter((other) => other !== id)

/** Completions from elsewhere that each comparison has one of. */
function Opponents({ slug, draft, errors, onChange }: Omit<Props, 'allPrompts'>) {
  const sources = useQuery(sourcesQuery(slug)).data ?? []
  const rounds = useInfiniteQuery(roundsQuery(slug)).data ?? []
  if (sources.length === 0 && rounds.length === 0) return null
  const n = draft.against.length + draft.rounds.length
  return (
    <details className={styles.more} open={n > 0 || undefined}>
      <summary>{n > 0 ? t('round.opponentsChosen', { n }) : t('round.opponents')}</summary>
      <p className="muted small">{t('round.opponentsHelp')}</p>
      {sources.length > 0 && (
        <SourcesField
          sources={sources}
          chosen={draft.against}
          error={errors.against}
          onChange={(against) => onChange({ ...draft, against })}
        />
      )}
      {rounds.length > 0 && (
        <ChoiceGroup legend={t('round.earlier')} error={errors.rounds}>
          {rounds.map(({ id, number, name, policies }) => (
            <ChoiceCard
              key={id}
              kind="checkbox"
              label={name || t('round.title', { number })}
              note={policies.map((policy) => policy.name).join(' · ')}
              checked={draft.rounds.includes(id)}
              onChange={({ target }) => onChange({ ...draft, rounds: toggled(draft.rounds, id, target.checked) })}
            />
          ))}
        </ChoiceGroup>
      )}
    </details>
  )
}
