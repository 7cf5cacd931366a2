/** The four steps of a new project, with where one is. */
import styles from 'src/setup/SetUp.module.css'
import { t } from 'src/ui/i18n/t'
import { Link } from 'wouter'

export const STEPS = ['project', 'prompts', 'people', 'completions'] as const
export type Step = (typeof STEPS)[number]

type Props = { now: Step; done?: readonly Step[]; hrefOf?: (step: Step) => string | undefined }

export function Steps({ now, done = [], hrefOf }: Props) {
  return (
    <ol className={styles.steps} aria-label={t('setUp.steps')}>
      {STEPS.map((step) => {
        const href = step === now ? undefined : hrefOf?.(step)
        return (
          <li key={step} aria-current={step === now ? 'step' : undefined} data-done={done.includes(step) || undefined}>
            {href ? <Link href={href}>{t(`setUp.step.${step}`)}</Link> : <span>{t(`setUp.step.${step}`)}</span>}
            {done.includes(step) && <span className="visually-hidden">{t('setUp.isDone')}</span>}
          </li>
        )
      })}
    </ol>
  )
}
