/** Judges of an evaluation: how a form holds them, what the API takes, and how they are called. */
import type { EvaluationCreateRequest, JudgeInputRequest, SamplingInputRequest, Verdict } from 'src/api/schema'
import { typed } from 'src/training/roundPlan'
import { t } from 'src/ui/i18n/t'

/** A judge model behind a server; empty address and name: the site's own. */
export type ServedJudge = { key: number; url: string; model: string; prompt: string }

export type SamplingDraft = Record<'completions' | 'temperature' | 'top_p' | 'max_new_tokens' | 'seed', string>

export type EvaluationDraft = {
  first: string
  second: string
  name: string
  prompts: string
  sampling: SamplingDraft
  people: boolean
  overlap: string
  priority: string
  rewards: string[]
  served: ServedJudge[]
}

export const NEW_EVALUATION: EvaluationDraft = {
  first: '',
  second: '',
  name: '',
  prompts: '',
  sampling: { completions: '', temperature: '1.0', top_p: '1.0', max_new_tokens: '128', seed: '1' },
  people: true,
  overlap: '',
  priority: '',
  rewards: [],
  served: [],
}

export const servedBody = ({ url, model, prompt }: ServedJudge): JudgeInputRequest => ({
  kind: 'judge',
  ...(url.trim() && { url: url.trim() }),
  ...(model.trim() && { model: model.trim() }),
  ...(prompt.trim() && { prompt }),
})

export const rewardBody = (model: string): JudgeInputRequest => ({ kind: 'reward', model })

const known = <T extends object>(record: T): T =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined)) as T

/** In the order of the form: people, reward models, judge models. */
export function judgesBody({ people, overlap, priority, rewards, served }: EvaluationDraft): JudgeInputRequest[] {
  return [
    ...(people
      ? [known<JudgeInputRequest>({ kind: 'people', overlap: typed(overlap), priority: typed(priority) })]
      : []),
    ...rewards.map(rewardBody),
    ...served.map(servedBody),
  ]
}

export function evaluationBody(draft: EvaluationDraft): EvaluationCreateRequest {
  const { completions, temperature, top_p, max_new_tokens, seed } = draft.sampling
  const sampling = known<SamplingInputRequest>({
    completions: typed(completions),
    temperature: typed(temperature),
    top_p: typed(top_p),
    max_new_tokens: typed(max_new_tokens),
    seed: typed(seed),
  })
  return known<EvaluationCreateRequest>({
    first: draft.first,
    second: draft.second,
    name: draft.name.trim() || undefined,
    prompts: typed(draft.prompts),
    sampling: Object.keys(sampling).length > 0 ? sampling : undefined,
    judges: judgesBody(draft),
  })
}

export function judgeName({ kind, reward_model, judge }: Pick<Verdict, 'kind' | 'reward_model' | 'judge'>): string {
  if (kind === 'people') return t('judge.people')
  if (kind === 'reward') return reward_model?.name ?? t('judge.reward')
  return judge?.model || t('judge.judge')
}
