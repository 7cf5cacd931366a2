import styles from 'src/training/Snapshots.module.css'
import { count } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

/** How many preferences train, validate and test, as one bar with its numbers. */
export function Splits({ train, validation, test }: { train: number; validation: number; test: number }) {
  const parts = [
    [t('split.train'), train],
    [t('split.validation'), validation],
    [t('split.test'), test],
  ] as const
  return (
    <>
      <div className={styles.splits} aria-hidden="true">
        {parts.map(([label, n]) => (
          <span key={label} style={{ flexGrow: n }} />
        ))}
      </div>
      <div className={styles.legend}>
        {parts.map(([label, n]) => (
          <span key={label}>
            <i aria-hidden="true" />
            {label} <strong>{count(n)}</strong>
          </span>
        ))}
      </div>
    </>
  )
}
