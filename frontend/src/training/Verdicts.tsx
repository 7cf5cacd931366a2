/** What became of claims, by word and sign; colour only repeats it. */
import { CircleCheck, CircleHelp, CircleX, type LucideIcon } from 'lucide-react'
import type { ExperimentClaim, ExperimentVerdicts } from 'src/api/schema'
import styles from 'src/training/Experiments.module.css'
import { type Key, t } from 'src/ui/i18n/t'

const LOOKS: Record<keyof ExperimentVerdicts, { icon: LucideIcon; word: Key }> = {
  held: { icon: CircleCheck, word: 'experiments.holds' },
  failed: { icon: CircleX, word: 'experiments.doesNotHold' },
  undecided: { icon: CircleHelp, word: 'experiments.undecided' },
}

const verdictOf = ({ holds }: ExperimentClaim): keyof ExperimentVerdicts =>
  holds === null ? 'undecided' : holds ? 'held' : 'failed'

/** In one line: how many of all hold, and what became of the others. */
export function Verdicts({ verdicts }: { verdicts: ExperimentVerdicts }) {
  const { held, failed, undecided } = verdicts
  const all = held + failed + undecided
  if (all === 0) return <span className="muted">{t('experiments.noClaims')}</span>
  const name = failed > 0 ? 'failed' : undecided > 0 ? 'undecided' : 'held'
  const { icon: Icon } = LOOKS[name]
  const words = [
    t('experiments.held', { n: all, held }),
    ...(failed > 0 ? [t('experiments.notHeld', { n: failed })] : []),
    ...(undecided > 0 ? [t('experiments.undecidedCount', { n: undecided })] : []),
  ]
  return (
    <span className={`${styles.verdict} ${styles[name]}`}>
      <Icon size={16} aria-hidden="true" />
      {words.join(' · ')}
    </span>
  )
}

export function Claims({ claims }: { claims: ExperimentClaim[] }) {
  return (
    <ul className={styles.claims}>
      {claims.map((claim) => {
        const name = verdictOf(claim)
        const { icon: Icon, word } = LOOKS[name]
        return (
          <li key={claim.claim}>
            <span className={`${styles.verdict} ${styles[name]}`}>
              <Icon size={16} aria-hidden="true" />
              {t(word)}
            </span>
            <span lang="en">
              {claim.claim}
              <span className={styles.figure}>{claim.figure}</span>
            </span>
          </li>
        )
      })}
    </ul>
  )
}
