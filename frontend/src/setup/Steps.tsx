/** The four steps of a new project, with where one is. */
import styles from 'src/setup/SetUp.module.css'
import { t } from 'src/ui/i18n/t'
import { Steps } from 'src/ui/widgets/Steps'
import { Link } from 'wouter'

export const STEPS = ['project', 'prompts', 'people', 'completions'] as const
export type Step = (typeof STEPS)[number]

type Props = { now: Step; done?: readonly Step[]; hrefOf?: (step: Step) => string | undefined }

export function SetUpSteps({ now, done = [], hrefOf }: Props) {
  const steps = STEPS.map((name) => {
    const href = name === now ? undefined : hrefOf?.(name)
    const text = t(`setUp.step.${name}`)
    return { name, text: href ? <Link href={href}>{text}</Link> : <span>{text}</span>, done: done.includes(name) }
  })
  return (
    <div className={styles.steps}>
      <Steps label={t('setUp.steps')} steps={steps} now={now} />
    </div>
  )
}
