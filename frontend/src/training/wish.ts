/** What a person asks of the workers, from the form to the request: inputs by role, and what may stand in each. */
import type { InputRole, Job, JobDetail, Method, Model, Snapshot, WishRequest } from 'src/api/schema'
import { type Config, merge } from 'src/training/config'

/** A registered model, or a promotion that will make one: `model:<id>` or `job:<id>`, as a select holds it. */
export type Ref = string
export type Offer = { ref: Ref; label: string; job?: Job }

export const refOf = (ref: Ref): Record<string, string> => {
  const [by = '', id = ''] = ref.split(':')
  return { [by]: id }
}

/** Promotions that have not ended: what they will make can be named already. Which kind, only some of them tell. */
export function promised(jobs: readonly Job[], kind: InputRole['kind']): Offer[] {
  const open = jobs.filter((job) => job.method === 'convert' && (job.status === 'queued' || job.status === 'running'))
  return open
    .filter((job) => {
      const trained = job.depends_on[0]
      return trained === undefined || (trained.method === 'reward') === (kind === 'reward')
    })
    .map((job) => ({ ref: `job:${job.id}`, label: job.title.replace(/^Promote /, ''), job }))
}

/** The one that the project goes on from stands first. */
export const registered = (models: readonly Model[], kind: InputRole['kind']): Offer[] =>
  models
    .filter((model) => model.kind === kind)
    .sort((one, other) => Number(other.is_current) - Number(one.is_current))
    .map((model) => ({ ref: `model:${model.id}`, label: model.name }))

export const readable = (method: Method, snapshots: readonly Snapshot[]): Snapshot[] =>
  snapshots.filter((snapshot) => method.kinds.includes(snapshot.kind))

/** What each role starts with: as many of the first as it must have. */
export const usualRoles = (method: Method, offers: (kind: InputRole['kind']) => Offer[]): Record<string, Ref[]> =>
  Object.fromEntries(
    method.roles.map((role) => [
      role.role,
      offers(role.kind)
        .slice(0, role.least)
        .map((offer) => offer.ref),
    ]),
  )

export type Plan = {
  preset: string
  machine: string
  title: string
  priority: string
  promoteAs: string
  makeCurrent: boolean
  after: string[]
}

export const NO_PLAN: Plan = {
  preset: '',
  machine: '',
  title: '',
  priority: '',
  promoteAs: '',
  makeCurrent: false,
  after: [],
}

type Inputs = { snapshot: string; base: Ref; roles: Readonly<Record<string, readonly Ref[]>> }

/** Only what was filled in is said. */
export function wishOf(method: Method, inputs: Inputs, config: Config, plan: Plan): WishRequest {
  const [by, id] = inputs.base.split(':')
  const roles = Object.entries(inputs.roles).filter(
    ([role, refs]) => refs.length > 0 && method.roles.some((one) => one.role === role),
  )
  const further: Config = Object.fromEntries(roles.map(([role, refs]) => [role, refs.map(refOf)]))
  if (by === 'job') further.base = refOf(inputs.base)
  const priority = numberOf(plan.priority)
  return {
    method: method.name,
    ...(inputs.snapshot && method.kinds.length > 0 ? { snapshot: inputs.snapshot } : {}),
    ...(by === 'model' ? { model: id } : {}),
    config,
    ...(Object.keys(further).length > 0 ? { inputs: further } : {}),
    ...(plan.after.length > 0 ? { after: plan.after } : {}),
    ...(plan.preset ? { preset: plan.preset } : {}),
    ...(plan.machine ? { machine: plan.machine } : {}),
    ...(plan.title.trim() ? { title: plan.title.trim() } : {}),
    ...(priority === undefined ? {} : { priority }),
    ...(plan.promoteAs.trim() && method.trains
      ? { promote_as: plan.promoteAs.trim(), ...(plan.makeCurrent ? { make_current: true } : {}) }
      : {}),
  }
}

export function numberOf(text: string): number | undefined {
  const value = Number(text)
  return text.trim() === '' || !Number.isInteger(value) ? undefined : value
}

const without = (of: Config, ...names: string[]): Config =>
  Object.fromEntries(Object.entries(of).filter(([name]) => !names.includes(name)))

export const configOf = (job: JobDetail): Config => without(job.config, 'method')

/** The job once more as a request of its own: for its estimate, and for a grid around it. */
export function wishAgain(job: JobDetail, changes: Config, checkpoint: string): WishRequest {
  const promisedBase = 'base' in job.inputs && !(checkpoint && job.model)
  const inputs = without(job.inputs, 'current', ...(promisedBase ? [] : ['base']))
  return {
    method: job.method,
    ...(job.snapshot ? { snapshot: job.snapshot.id } : {}),
    ...(job.model && !promisedBase ? { model: job.model.id } : {}),
    config: merge(configOf(job), changes),
    ...(Object.keys(inputs).length > 0 ? { inputs } : {}),
    ...(checkpoint ? { checkpoint } : {}),
  }
}
