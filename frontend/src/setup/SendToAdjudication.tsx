/** Ask for rulings on comparisons that a filter finds. */
import { useState } from 'react'
import { sendToAdjudication } from 'src/api/adjudication'
import type { Sent } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { typedNumber } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { TextArea, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'

type SendProps = { slug: string; onClose: () => void; onSent: (sent: Sent) => void }

export function SendToAdjudication({ slug, onClose, onSent }: SendProps) {
  const [below, setBelow] = useState('60')
  const [category, setCategory] = useState('')
  const [reason, setReason] = useState('')
  const send = useWrite(
    slug,
    () =>
      sendToAdjudication(slug, {
        reason: reason.trim(),
        filter: {
          ...(below.trim() ? { top_share_below: typedNumber(below) / 100 } : {}),
          ...(category.trim() ? { category: category.trim() } : {}),
        },
      }),
    onSent,
  )
  return (
    <FormDialog
      title={t('send.title')}
      submit={t('send.submit')}
      busy={send.isPending}
      error={send.error}
      failed={t('error.action')}
      onSubmit={() => send.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <TextField
            label={t('send.below')}
            help={t('send.belowHelp')}
            unit="%"
            inputMode="decimal"
            error={errors['filter.top_share_below'] ?? errors.top_share_below}
            value={below}
            onChange={(event) => setBelow(event.target.value)}
          />
          <TextField
            label={t('prompts.category')}
            help={t('pairing.onlyHelp')}
            value={category}
            onChange={(event) => setCategory(event.target.value)}
          />
          <TextArea
            label={t('adjudicate.reason')}
            help={t('adjudicate.reasonHelp')}
            rows={2}
            error={errors.reason}
            value={reason}
            onChange={(event) => setReason(event.target.value)}
          />
        </>
      )}
    </FormDialog>
  )
}
