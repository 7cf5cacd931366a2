import type { Job, JobDetail, Method, Model, WishRequest } from 'src/api/schema'
import { NO_PLAN, promised, registered, usualRoles, wishAgain, wishOf } from 'src/training/wish'
import { expect, test } from 'vitest'

const PPO = {
  name: 'ppo',
  kinds: ['preferences'],
  trains: true,
  needs_snapshot: true,
  needs_model: true,
  roles: [
    { role: 'rewards', kind: 'reward', least: 1, most: 8 },
    { role: 'held_out', kind: 'reward', least: 0, most: 8 },
  ],
} as unknown as Method

const promotion = (id: string, of: string, status = 'queued') =>
  ({ id, method: 'convert', status, title: `Promote ${id}`, depends_on: [{ method: of }] }) as unknown as Job
const model = (id: string, kind: string, is_current = false) => ({ id, name: id, kind, is_current }) as unknown as Model

test('a promotion that has not ended can be named for what it will make', () => {
  const jobs = [promotion('rm', 'reward'), promotion('pol', 'dpo'), promotion('old', 'reward', 'succeeded')]
  expect(promised(jobs, 'reward').map(({ ref, label }) => [ref, label])).toEqual([['job:rm', 'rm']])
  expect(promised(jobs, 'policy').map(({ ref }) => ref)).toEqual(['job:pol'])
})

test('the current model stands first, and fills what a method must have', () => {
  const offers = () => registered([model('a', 'reward'), model('b', 'reward', true), model('c', 'policy')], 'reward')
  expect(usualRoles(PPO, offers)).toEqual({ rewards: ['model:b'], held_out: [] })
})

test('a request says inputs by role, and only what was filled in', () => {
  const inputs = { snapshot: 's', base: 'job:pol', roles: { rewards: ['job:rm', 'model:b'], held_out: [] } }
  expect(wishOf(PPO, inputs, {}, NO_PLAN)).toEqual<WishRequest>({
    method: 'ppo',
    snapshot: 's',
    config: {},
    inputs: { rewards: [{ job: 'rm' }, { model: 'b' }], base: { job: 'pol' } },
  })
  const plan = { ...NO_PLAN, title: ' T ', priority: '-5', promoteAs: 'next', makeCurrent: true, after: ['j'] }
  expect(wishOf(PPO, { ...inputs, base: 'model:c', roles: {} }, { kl: { beta: 0.1 } }, plan)).toEqual<WishRequest>({
    method: 'ppo',
    snapshot: 's',
    model: 'c',
    config: { kl: { beta: 0.1 } },
    after: ['j'],
    title: 'T',
    priority: -5,
    promote_as: 'next',
    make_current: true,
  })
})

test('a job once more is a request with its whole config, without what the job itself fills in', () => {
  const job = {
    method: 'ppo',
    snapshot: { id: 's' },
    model: { id: 'm' },
    config: { method: 'ppo', kl: { beta: 0.1, budget: null } },
    inputs: { base: { job: 'pol' }, rewards: [{ model: 'b' }], current: true },
  } as unknown as JobDetail
  expect(wishAgain(job, { kl: { beta: 0.2 } }, '')).toEqual({
    method: 'ppo',
    snapshot: 's',
    config: { kl: { beta: 0.2, budget: null } },
    inputs: { base: { job: 'pol' }, rewards: [{ model: 'b' }] },
  })
  // From a checkpoint, a promised base has come true.
  expect(wishAgain(job, {}, 'c')).toMatchObject({ model: 'm', checkpoint: 'c', inputs: { rewards: [{ model: 'b' }] } })
})
