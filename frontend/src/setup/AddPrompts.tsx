/** Prompts into a project: pasted as text, or from a file. What is pasted is counted before anything is sent. */
import { useState } from 'react'
import { ACCEPTED, importFile, isImporting, mediaType } from 'src/api/imports'
import type { ImportBatch } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { FileDrop } from 'src/setup/FileDrop'
import { promptFile } from 'src/setup/pasted'
import { badRows, NotImported } from 'src/setup/RowErrors'
import styles from 'src/setup/SetUp.module.css'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { TextArea, TextField } from 'src/ui/widgets/Field'
import { Row } from 'src/ui/widgets/Page'
import { Notice } from 'src/ui/widgets/States'

type Props = { slug: string; overlap?: number; onDone: (batch: ImportBatch) => void }
type Ask = { file: File; onError: 'refuse' | 'skip' }

export function AddPrompts({ slug, overlap, onDone }: Props) {
  const [text, setText] = useState('')
  const [category, setCategory] = useState('')
  const [file, setFile] = useState<File | null>(null)
  const load = useWrite(
    slug,
    ({ file: sent, onError }: Ask) => importFile(slug, { kind: 'prompts', file: sent, columns: '', onError }),
    onDone,
  )
  const choose = async (chosen: File | null) => {
    load.reset()
    // A plain text file is what one would have pasted.
    if (chosen && /\.(txt|md)$/i.test(chosen.name)) setText(await chosen.text())
    else setFile(chosen)
  }
  const pasted = promptFile(text, category.trim())
  const wrongName = file !== null && mediaType(file.name) === null
  const sent = file ?? (pasted.prompts > 0 ? pasted.file : null)
  const refused = badRows(load.error)
  const send = (onError: Ask['onError']) => sent && load.mutate({ file: sent, onError })
  return (
    <form
      noValidate
      className={styles.form}
      onSubmit={(event) => {
        event.preventDefault()
        if (!load.isPending) send('refuse')
      }}
    >
      <div className={styles.ways}>
        <div className={styles.way}>
          <TextArea
            label={t('addPrompts.text')}
            help={t('addPrompts.textHelp')}
            rows={9}
            disabled={file !== null}
            value={text}
            onChange={(event) => {
              setText(event.target.value)
              load.reset()
            }}
          />
          <TextField
            label={t('addPrompts.category')}
            help={t('addPrompts.categoryHelp')}
            disabled={file !== null}
            value={category}
            onChange={(event) => setCategory(event.target.value)}
          />
        </div>
        <div className={styles.way}>
          <FileDrop
            file={file}
            accept={`${ACCEPTED},.txt,.md`}
            note={t('addPrompts.formats')}
            onChoose={(chosen) => void choose(chosen)}
          />
          {file && (
            <Row>
              <Button small onClick={() => void choose(null)}>
                {t('addPrompts.otherFile')}
              </Button>
            </Row>
          )}
          {wrongName && <Notice tone="error">{t('imports.wrongName', { name: file.name })}</Notice>}
        </div>
      </div>
      {load.isError && <NotImported error={load.error} />}
      <Row>
        <Button look="primary" type="submit" busy={load.isPending} disabled={sent === null || wrongName}>
          {load.isPending
            ? t('import.busy')
            : file
              ? t('addPrompts.addFile')
              : t('addPrompts.add', { n: pasted.prompts })}
        </Button>
        {refused.length > 0 && (
          <Button busy={load.isPending} onClick={() => send('skip')}>
            {t('import.skipBad')}
          </Button>
        )}
        {overlap !== undefined && !file && pasted.prompts > 0 && (
          <span className="muted small tabular">
            {t('addPrompts.work', { n: pasted.prompts * overlap, prompts: pasted.prompts, overlap })}
          </span>
        )}
      </Row>
    </form>
  )
}

/** What an import has done, in words. */
export function importedText(batch: ImportBatch): string {
  if (isImporting(batch)) return t('imports.queued')
  const { imported, duplicates, skipped } = batch
  const rest = duplicates + skipped > 0 ? ` ${t('import.rest', { duplicates, skipped })}` : ''
  return `${t('addPrompts.done', { n: imported })}${rest}`
}
