/** The steps of a way in their order: those that are done, and the one at hand. */
import type { ReactNode } from 'react'
import { t } from 'src/ui/i18n/t'
import styles from 'src/ui/widgets/Steps.module.css'

export type StepItem = { name: string; text: ReactNode; done: boolean }

export function Steps({ label, steps, now }: { label?: string; steps: StepItem[]; now: string }) {
  return (
    <ol className={styles.steps} aria-label={label}>
      {steps.map(({ name, text, done }) => (
        <li key={name} aria-current={name === now ? 'step' : undefined} data-done={done || undefined}>
          {text}
          {done && <span className="visually-hidden"> {t('start.done')}</span>}
        </li>
      ))}
    </ol>
  )
}
