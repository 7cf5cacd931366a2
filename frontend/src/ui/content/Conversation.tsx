import styles from 'src/ui/content/Content.module.css'
import { Markdown, type Mode } from 'src/ui/content/Markdown'
import { type Key, t } from 'src/ui/i18n/t'

export type Turn = { role: string; content: string }

const ROLES: Record<string, Key> = { user: 'role.user', assistant: 'role.assistant', system: 'role.system' }

export const roleName = (role: string): string => {
  const key = ROLES[role]
  return key ? t(key) : role
}

type ConversationProps = { turns: Turn[]; prefix: string; mode?: Mode; compact?: boolean }

/** A prompt as the messages it is made of. */
export function Conversation({ turns, prefix, mode, compact }: ConversationProps) {
  return (
    <div className={`${styles.turns} ${compact ? styles.compact : ''}`}>
      {turns.map((turn, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: the turns of a prompt never move.
        <div key={index} className={styles.turn}>
          <div className={styles.role}>{roleName(turn.role)}</div>
          <Markdown text={turn.content} prefix={`${prefix}${index}-`} mode={mode} />
        </div>
      ))}
    </div>
  )
}

/** The last thing a person asked, as one line for tables. */
export function promptLine(turns: Turn[], length = 140): string {
  const last = turns.findLast((turn) => turn.role === 'user') ?? turns.at(-1)
  return excerpt(last?.content ?? '', length)
}

/** The beginning of a text as one line for tables. */
export function excerpt(text: string, length: number): string {
  const line = text.replace(/\s+/g, ' ').trim()
  return line.length > length ? `${line.slice(0, length - 1)}…` : line
}
