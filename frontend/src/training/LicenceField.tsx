import { t } from 'src/ui/i18n/t'
import { TextField } from 'src/ui/widgets/Field'

type LicenceFieldProps = { value: string; error?: string; onChange: (value: string) => void }

/** The licence of a model, by its short name. */
export function LicenceField({ onChange, ...rest }: LicenceFieldProps) {
  return (
    <TextField
      label={t('models.licence')}
      help={t('models.licenceHelp')}
      {...rest}
      onChange={(event) => onChange(event.target.value)}
    />
  )
}
