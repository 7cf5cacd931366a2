/** What is typed in the playground's form, and the request that it makes. */
import type { Message, PlaygroundAskRequest, PlaygroundQuestion } from 'src/api/schema'

export const MOST_POLICIES = 4
/** Turns of user and assistant in turn, the last one the user's; numbers as they were typed. */
export type Draft = {
  system: string
  turns: string[]
  policies: string[]
  completions: string
  temperature: string
  topP: string
  maxTokens: string
  seed: string
  reward: string
}

export const NEW_DRAFT: Draft = {
  system: '',
  turns: [''],
  policies: [],
  completions: '1',
  temperature: '1',
  topP: '0.95',
  maxTokens: '256',
  seed: '1',
  reward: '',
}

/** The form as it was when a question was asked. */
export function draftOf({ messages, policies, completions, sampling, reward }: PlaygroundQuestion): Draft {
  return {
    ...turnsOf(messages),
    policies: policies.map(({ id }) => id),
    completions: String(completions),
    temperature: String(sampling.temperature),
    topP: String(sampling.top_p),
    maxTokens: String(sampling.max_new_tokens),
    seed: String(sampling.seed),
    reward: reward?.id ?? '',
  }
}

function turnsOf(messages: Message[]): Pick<Draft, 'system' | 'turns'> {
  const [first] = messages
  const system = first?.role === 'system' ? first.content : ''
  return { system, turns: messages.filter(({ role }) => role !== 'system').map(({ content }) => content) }
}

/** The form with an answer taken as the assistant's turn, and room for what the user says next. */
export function goneOn(question: PlaygroundQuestion, answer: string): Draft {
  const draft = draftOf(question)
  return { ...draft, turns: [...draft.turns, answer, ''] }
}

export const roleOfTurn = (index: number): 'user' | 'assistant' => (index % 2 === 0 ? 'user' : 'assistant')

function number(text: string): number | undefined {
  return text.trim() === '' ? undefined : Number(text.replace(',', '.'))
}

/** What is left empty is left out, and has the server's default. */
export function askBody(draft: Draft): PlaygroundAskRequest {
  const body: PlaygroundAskRequest = {
    messages: [
      ...(draft.system.trim() === '' ? [] : [{ role: 'system' as const, content: draft.system }]),
      ...draft.turns.map((content, index) => ({ role: roleOfTurn(index), content })),
    ],
    policies: draft.policies,
  }
  const numbers = {
    completions: number(draft.completions),
    temperature: number(draft.temperature),
    top_p: number(draft.topP),
    max_new_tokens: number(draft.maxTokens),
    seed: number(draft.seed),
  }
  for (const [name, value] of Object.entries(numbers)) if (value !== undefined) Object.assign(body, { [name]: value })
  return draft.reward === '' ? body : { ...body, reward: draft.reward }
}

const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`

/** The same request for a shell; `address` is where the browser sends it. */
export function asCurl(address: string, draft: Draft): string {
  return [
    'curl -H "Authorization: Bearer $WINNOW_TOKEN" -H "Content-Type: application/json" \\',
    `  ${quoted(address)} \\`,
    `  -d ${quoted(JSON.stringify(askBody(draft), null, 1))}`,
  ].join('\n')
}
