import { TextField } from 'src/ui/widgets/Field'

type TagsFieldProps = { label: string; help?: string; error?: string; value: string; onChange: (value: string) => void }

/** Tags as one line with commas between. */
export function TagsField({ onChange, ...rest }: TagsFieldProps) {
  return <TextField {...rest} onChange={(event) => onChange(event.target.value)} />
}

export const readTags = (text: string): string[] =>
  text
    .split(',')
    .map((tag) => tag.trim())
    .filter((tag) => tag !== '')
