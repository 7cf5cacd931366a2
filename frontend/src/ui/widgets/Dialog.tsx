/** A modal on the native element: the browser keeps the focus inside and Escape closes it. */
import { X } from 'lucide-react'
import { type CSSProperties, type ReactNode, useEffect, useId, useRef } from 'react'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import styles from 'src/ui/widgets/Dialog.module.css'

type DialogProps = {
  title: string
  onClose: () => void
  width?: number
  footer?: ReactNode
  /** Given, body and footer are one form. */
  onSubmit?: () => void
  /** False where leaving must be a choice, as with a secret that is shown once. */
  dismissable?: boolean
  children: ReactNode
}

export function Dialog({ title, onClose, width = 560, footer, onSubmit, dismissable = true, children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null)
  const id = useId()
  useEffect(() => {
    const dialog = ref.current
    dialog?.showModal()
    // The first thing to fill in or choose, not the closing cross.
    dialog
      ?.querySelector<HTMLElement>(
        '[data-body] :is(input, select, textarea, button):not(:disabled), [data-footer] button:last-of-type',
      )
      ?.focus()
    return () => dialog?.close()
  }, [])
  const content = (
    <>
      <div className={styles.header}>
        <h2 id={id}>{title}</h2>
        {dismissable && (
          <Button look="quiet" small icon aria-label={t('action.close')} onClick={onClose}>
            <X size={18} aria-hidden="true" />
          </Button>
        )}
      </div>
      <div className={styles.body} data-body>
        {children}
      </div>
      <div className={styles.footer} data-footer>
        {footer}
      </div>
    </>
  )
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: a click on the backdrop; Escape is the element's own key.
    <dialog
      ref={ref}
      className={styles.dialog}
      style={{ '--width': `${width}px` } as CSSProperties}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault()
        if (dismissable) onClose()
      }}
      onClick={(event) => {
        if (dismissable && event.target === ref.current) onClose()
      }}
    >
      {onSubmit ? (
        <form
          className={styles.inner}
          noValidate
          onSubmit={(event) => {
            event.preventDefault()
            onSubmit()
          }}
        >
          {content}
        </form>
      ) : (
        <div className={styles.inner}>{content}</div>
      )}
    </dialog>
  )
}
