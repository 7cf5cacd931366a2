/** What became of the votes, in two words, and the ones the server would not take. */
import { Check, CloudOff, LoaderCircle, TriangleAlert } from 'lucide-react'
import { useState } from 'react'
import type { Outbox, OutboxState } from 'src/annotate/outbox'
import styles from 'src/annotate/Task.module.css'
import { t } from 'src/ui/i18n/t'
import { CopyButton } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { Notice } from 'src/ui/widgets/States'

export function saveLabel(state: OutboxState, online: boolean): string {
  const n = state.waiting.length
  if (n === 0) return t('save.saved')
  if (!online || state.offline) return t('save.offline', { n })
  return t('save.saving', { n })
}

export function SaveStatus({ outbox, state, online }: { outbox: Outbox; state: OutboxState; online: boolean }) {
  const [open, setOpen] = useState(false)
  const waiting = state.waiting.length
  const offline = waiting > 0 && (!online || state.offline)
  const Icon = waiting === 0 ? Check : offline ? CloudOff : LoaderCircle
  return (
    <>
      <span className={`${styles.status} ${offline ? styles.alertStatus : ''}`}>
        <Icon size={16} aria-hidden="true" />
        {saveLabel(state, online)}
        {!state.durable && waiting > 0 && <span> · {t('save.notKept')}</span>}
      </span>
      {state.refused.length > 0 && (
        <Button look="danger" small onClick={() => setOpen(true)}>
          <TriangleAlert size={16} aria-hidden="true" />
          {t('save.refused', { n: state.refused.length })}
        </Button>
      )}
      {open && state.refused.length > 0 && (
        <Dialog title={t('save.refusedTitle')} onClose={() => setOpen(false)}>
          <p>{t('save.refusedIntro')}</p>
          {state.refused.map((entry) => (
            <Notice
              key={entry.key}
              tone="warn"
              action={
                <>
                  <CopyButton text={JSON.stringify(entry, null, 2)} label={t('save.vote')} />
                  <Button small onClick={() => void outbox.dismiss(entry.key)}>
                    {t('save.dismiss')}
                  </Button>
                </>
              }
            >
              {entry.refused?.message || t('error.refused', { code: entry.refused?.code ?? '' })}
            </Notice>
          ))}
        </Dialog>
      )}
    </>
  )
}
