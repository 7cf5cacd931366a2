/** A place to drop a file on, or to choose one by keyboard. */
import { FileUp } from 'lucide-react'
import { useId, useState } from 'react'
import styles from 'src/setup/Imports.module.css'
import { bytes } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'

type Props = { file: File | null; accept: string; note: string; onChoose: (file: File | null) => void }

export function FileDrop({ file, accept, note, onChoose }: Props) {
  const id = useId()
  const [over, setOver] = useState(false)
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: a target for dropped files; the input inside takes keys.
    <div
      className={styles.drop}
      data-over={over || undefined}
      onDragOver={(event) => {
        event.preventDefault()
        setOver(true)
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault()
        setOver(false)
        onChoose(event.dataTransfer.files[0] ?? null)
      }}
    >
      <FileUp size={22} aria-hidden="true" />
      <label htmlFor={id}>
        {file ? t('imports.chosen', { name: file.name, size: bytes(file.size) }) : t('imports.drop')}
      </label>
      <input id={id} type="file" accept={accept} onChange={(event) => onChoose(event.target.files?.[0] ?? null)} />
      <span className="muted small">{note}</span>
    </div>
  )
}
