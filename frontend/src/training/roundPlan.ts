/** The plan of a round as a form holds it, and as the API takes it. An empty field is left out: the server's default. */
import type { RoundCreateRequest, Schedule, ScheduleChangeRequest } from 'src/api/schema'
import { readTags } from 'src/ui/widgets/TagsField'

/** What a round and the schedule of rounds have in common. */
export type RoundPlan = Omit<RoundCreateRequest, 'policies' | 'mix' | 'name' | 'prompt_ids'>

const NUMBERS = [
  'prompts',
  'completions',
  'temperature',
  'top_p',
  'max_new_tokens',
  'seed',
  'overlap',
  'per_prompt',
  'priority',
] as const
const TAGS = ['categories', 'languages', 'skills'] as const

export const STRATEGIES = ['cross_source', 'random', 'balanced', 'most_different', 'all', 'information'] as const
export type Strategy = (typeof STRATEGIES)[number]
export const OBJECTIVES = ['order', 'strength'] as const

export type PlanText = (typeof NUMBERS)[number] | (typeof TAGS)[number] | 'control_share' | 'language'
export type PlanDraft = Record<PlanText, string> & {
  fresh: boolean
  strategy: Strategy
  objective: (typeof OBJECTIVES)[number]
  against: string[]
  rounds: string[]
}

export const NEW_PLAN: PlanDraft = {
  prompts: '',
  completions: '2',
  temperature: '1.0',
  top_p: '1.0',
  max_new_tokens: '128',
  seed: '1',
  overlap: '',
  per_prompt: '',
  priority: '',
  categories: '',
  languages: '',
  skills: '',
  language: '',
  control_share: '0.1',
  fresh: false,
  strategy: 'cross_source',
  objective: 'order',
  against: [],
  rounds: [],
}

/** A number as it was typed; what is no number goes as it is, for the server to name the field. */
export function typed(text: string): number | undefined {
  return text.trim() === '' ? undefined : Number(text.replace(',', '.'))
}

const without = <T extends object>(record: T): T =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined)) as T

const some = <T>(list: T[]): T[] | undefined => (list.length > 0 ? list : undefined)

export function planBody(draft: PlanDraft): RoundPlan {
  const isChosen = draft.strategy === 'information'
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, typed(draft[name])]))
  const tags = Object.fromEntries(TAGS.map((name) => [name, some(readTags(draft[name]))]))
  return without<RoundPlan>({
    ...numbers,
    ...tags,
    fresh: draft.fresh || undefined,
    strategy: draft.strategy,
    objective: isChosen ? draft.objective : undefined,
    control_share: isChosen ? typed(draft.control_share) : undefined,
    language: draft.language.trim() || undefined,
    against: some(draft.against),
    rounds: some(draft.rounds),
  })
}

const text = (value: unknown): string => (typeof value === 'number' ? String(value) : '')
const oneOf = <Name extends string>(names: readonly [Name, ...Name[]], value: unknown): Name =>
  names.find((name) => name === value) ?? names[0]

/** A schedule as it is stored, back in its form: sent unchanged, it stays what it was. */
export function scheduleDraft({ prompts, sampling, pairing }: Schedule): PlanDraft {
  return {
    prompts: text(prompts),
    completions: text(sampling.completions),
    temperature: text(sampling.temperature),
    top_p: text(sampling.top_p),
    max_new_tokens: text(sampling.max_new_tokens),
    seed: text(sampling.seed),
    overlap: text(pairing.overlap),
    per_prompt: text(pairing.per_prompt),
    priority: pairing.priority ? String(pairing.priority) : '',
    categories: (pairing.categories ?? []).join(', '),
    languages: (pairing.languages ?? []).join(', '),
    skills: (pairing.skills ?? []).join(', '),
    language: pairing.language ?? '',
    control_share: text(pairing.control_share ?? 0.1),
    fresh: pairing.fresh ?? false,
    strategy: oneOf(STRATEGIES, pairing.strategy),
    objective: oneOf(OBJECTIVES, pairing.objective),
    against: pairing.against ?? [],
    rounds: pairing.rounds ?? [],
  }
}

export const scheduleBody = (
  draft: PlanDraft,
  rest: Pick<ScheduleChangeRequest, 'is_on' | 'opponent'>,
): ScheduleChangeRequest => ({ ...planBody(draft), ...rest })

/* ---- Several policies */

/** What is a policy's own of the sampling; all empty: as the round says. */
export type Share = { model: string; weight: string; completions: string; temperature: string }
export const newShare = (model: string): Share => ({ model, weight: '', completions: '', temperature: '' })

const OWN = ['weight', 'completions', 'temperature'] as const

/** Alike policies as a list; with anything of its own in one of them, each with what is its own. */
export function mixBody(shares: Share[]): Pick<RoundCreateRequest, 'policies' | 'mix'> {
  if (shares.every((share) => OWN.every((name) => share[name].trim() === '')))
    return { policies: shares.map(({ model }) => model) }
  return {
    mix: shares.map((share) =>
      without({
        model: share.model,
        weight: typed(share.weight),
        completions: typed(share.completions),
        temperature: typed(share.temperature),
      }),
    ),
  }
}

/** Completions of each prompt over all policies: with weights, as many as without them, shared out otherwise. */
export function completionsOf(shares: Share[], completions: string): number {
  const each = typed(completions) ?? 1
  return shares.reduce((sum, share) => sum + (typed(share.completions) ?? each), 0)
}
