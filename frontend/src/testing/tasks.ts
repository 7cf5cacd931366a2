/** Forms and tasks for tests, whole unless told otherwise. */
import type { Form, Task } from 'src/api/schema'

export const form = (more: Partial<Form> = {}): Form => ({
  kind: 'choice',
  size: 2,
  allow_tie: true,
  allow_both_bad: false,
  points: 5,
  criteria: [],
  rationale: 'optional',
  reasons: [],
  reasons_required: false,
  read_first: false,
  read_points: 7,
  ...more,
})

export const task = (n: number, more: Partial<Task> = {}): Task => ({
  assignment: `assignment-${n}`,
  prompt: [{ role: 'user', content: `Question number ${n}` }],
  completions: [`Left text ${n}`, `Right text ${n}`],
  question: 'Which response is better?',
  form: form(),
  min_reading_seconds: 0,
  read_to_end: false,
  lease_expires_at: '2030-01-01T00:00:00Z',
  answer: null,
  ...more,
})

export const criterion = (key: string, label: string, anchors: string[] = []) => ({
  key,
  label,
  description: '',
  anchors,
})
