/** The annotator's queue as a pure reducer: tasks in hand, what the server said, and what was answered here. */
import type { Queue, Task } from 'src/api/schema'

/** Tasks kept in hand: the one on screen, the one rendered behind it, and enough to go on for a while without a network. */
export const WANTED = 4
/** Asked for each time: what the server lets one tab hold. It counts unsent answers, as their leases are still ours. */
export const ASKED = 5

export type DoneReason = NonNullable<Queue['done']>

export type QueueState = {
  tasks: Task[]
  /** Answered in this tab, perhaps still unsent: the server may list them again. */
  answered: ReadonlySet<string>
  done: DoneReason | null
  /** The last refill brought nothing new: asking again at once would bring nothing either. */
  dry: boolean
  /** How often the server has answered. */
  takes: number
  error: unknown
  failures: number
  votes: number
  remaining: number
  leaseMinutes: number
}

export type QueueEvent =
  /** `answeredBefore` is how many were answered when the question was asked. */
  | { kind: 'taken'; queue: Queue; answeredBefore: number }
  | { kind: 'failed'; error: unknown }
  | { kind: 'retry' }
  | { kind: 'restored' }
  | { kind: 'answered'; assignment: string }
  | { kind: 'returned'; task: Task }
  | { kind: 'counted'; votes: number; remaining: number }

export const emptyQueue = (answered: Iterable<string> = []): QueueState => ({
  tasks: [],
  answered: new Set(answered),
  done: null,
  dry: false,
  takes: 0,
  error: null,
  failures: 0,
  votes: 0,
  remaining: 0,
  leaseMinutes: 15,
})

export function queueReducer(state: QueueState, event: QueueEvent): QueueState {
  switch (event.kind) {
    case 'taken': {
      const { queue } = event
      const listed = new Map(queue.items.map((task) => [task.assignment, task]))
      const inHand = new Set(state.tasks.map((task) => task.assignment))
      const fresh = queue.items.filter((task) => !inHand.has(task.assignment) && !state.answered.has(task.assignment))
      return {
        ...state,
        // The order in hand stays: the task on screen must not change under the person's eyes.
        tasks: [...state.tasks.map((task) => renewed(task, listed.get(task.assignment))), ...fresh],
        done: queue.done,
        dry: fresh.length === 0 && event.answeredBefore === state.answered.size,
        takes: state.takes + 1,
        error: null,
        failures: 0,
        votes: queue.votes,
        remaining: queue.remaining,
        leaseMinutes: queue.lease_minutes,
      }
    }
    case 'failed':
      return { ...state, error: event.error, failures: state.failures + 1 }
    case 'retry':
      return { ...state, error: null, dry: false, done: null }
    case 'restored':
      // The page comes back from the browser's cache; what was unseen has been given back.
      return { ...state, tasks: state.tasks.slice(0, 1), error: null, dry: false, done: null }
    case 'answered':
      return {
        ...state,
        tasks: state.tasks.filter((task) => task.assignment !== event.assignment),
        answered: new Set([...state.answered, event.assignment]),
        dry: false,
        done: null,
      }
    case 'returned': {
      const { task } = event
      const answered = new Set(state.answered)
      answered.delete(task.assignment)
      return {
        ...state,
        answered,
        tasks: [task, ...state.tasks.filter((other) => other.assignment !== task.assignment)],
      }
    }
    case 'counted':
      // A vote that has arrived frees its lease, so there may be more to take.
      return { ...state, votes: event.votes, remaining: event.remaining, dry: false }
  }
}

/** Only the lease moves on a task in hand; its object stays the same while nothing does. */
function renewed(task: Task, listed: Task | undefined): Task {
  if (!listed || listed.lease_expires_at === task.lease_expires_at) return task
  return { ...task, lease_expires_at: listed.lease_expires_at }
}

export function wantsMore(state: QueueState): boolean {
  return state.tasks.length < WANTED && !state.dry && state.done === null && state.error === null
}
