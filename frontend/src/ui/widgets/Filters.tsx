/** What a list shows: buttons of which one is on, and what else narrows it, to be taken away. */
import { X } from 'lucide-react'
import styles from 'src/ui/widgets/Filters.module.css'

type FiltersProps<Name extends string> = {
  /** What they choose among, for those who do not see them. */
  label: string
  options: readonly (readonly [Name, string])[]
  value: Name
  onChoose: (name: Name) => void
  /** Something beside them, such as one round only; null where nothing else narrows the list. */
  only?: { label: string; onRemove: () => void } | null
}

export function Filters<Name extends string>({ label, options, value, onChoose, only }: FiltersProps<Name>) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: toggle buttons, not form controls.
    <div className={styles.filters} role="group" aria-label={label}>
      {options.map(([name, text]) => (
        <button
          key={name}
          type="button"
          className={styles.filter}
          aria-pressed={name === value}
          onClick={() => onChoose(name)}
        >
          {text}
        </button>
      ))}
      {only && (
        <button type="button" className={styles.filter} aria-pressed={true} onClick={only.onRemove}>
          {only.label}
          <X size={14} aria-hidden="true" />
        </button>
      )}
    </div>
  )
}
