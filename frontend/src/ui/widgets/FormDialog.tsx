/** A dialog that is one form: its fields, what the server says to them, and the button that does it. */
import type { ReactNode } from 'react'
import { fieldErrors } from 'src/api/errors'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ErrorPanel } from 'src/ui/widgets/States'

type FormDialogProps = {
  title: string
  width?: number
  submit: string
  busy: boolean
  error: unknown
  /** What did not happen, as a sentence. */
  failed: string
  danger?: boolean
  onSubmit: () => void
  onClose: () => void
  /** The fields, given the server's messages by field. */
  children: (errors: Record<string, string>) => ReactNode
}

export function FormDialog({ title, width, submit, busy, error, failed, danger, ...rest }: FormDialogProps) {
  const errors = fieldErrors(error)
  return (
    <Dialog
      title={title}
      width={width}
      onClose={rest.onClose}
      onSubmit={rest.onSubmit}
      footer={
        <>
          <Button onClick={rest.onClose}>{t('action.cancel')}</Button>
          <Button look={danger ? 'danger' : 'primary'} type="submit" busy={busy}>
            {submit}
          </Button>
        </>
      }
    >
      {rest.children(errors)}
      {error !== null && <ErrorPanel what={failed} error={error} />}
    </Dialog>
  )
}
