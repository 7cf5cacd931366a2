/** Which sources: those of completions that there are, each with how many it has written. */
import type { Source } from 'src/api/schema'
import { t } from 'src/ui/i18n/t'
import { ChoiceCard, ChoiceGroup } from 'src/ui/widgets/Field'

type SourcesFieldProps = {
  sources: readonly Source[]
  chosen: readonly string[]
  error?: string
  onChange: (chosen: string[]) => void
}

export function SourcesField({ sources, chosen, error, onChange }: SourcesFieldProps) {
  return (
    <ChoiceGroup legend={t('pairing.sources')} error={error}>
      {sources.length === 0 && <p className="muted">{t('pairing.noSources')}</p>}
      {sources.map(({ id, name, completions }) => (
        <ChoiceCard
          key={id}
          kind="checkbox"
          label={name}
          note={t('pairing.completions', { n: completions })}
          checked={chosen.includes(id)}
          onChange={({ target }) => onChange(target.checked ? [...chosen, id] : chosen.filter((other) => other !== id))}
        />
      ))}
    </ChoiceGroup>
  )
}
