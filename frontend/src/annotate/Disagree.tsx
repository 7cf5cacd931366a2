/** A person's word against a right answer that they were told: written once, and kept as it was. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { objectTo } from 'src/api/annotator'
import { fieldErrors } from 'src/api/errors'
import { keys } from 'src/api/queries'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { TextArea } from 'src/ui/widgets/Field'
import { Row } from 'src/ui/widgets/Page'
import { ErrorPanel } from 'src/ui/widgets/States'

const MOST_CHARACTERS = 1000

type DisagreeProps = {
  slug: string
  vote: string
  /** What they wrote before. */
  said?: string | null
}

export function Disagree({ slug, vote, said = null }: DisagreeProps) {
  const client = useQueryClient()
  const [open, setOpen] = useState(false)
  const [text, setText] = useState('')
  const send = useMutation({
    mutationFn: (words: string) => objectTo(slug, vote, words),
    onSuccess: () => client.invalidateQueries({ queryKey: [...keys.work, slug] }),
  })
  const told = said ?? (send.isSuccess ? send.variables : null)
  if (told !== null) return <p role="status">{t('objection.said', { text: told })}</p>
  if (!open) {
    return (
      <div>
        <Button small onClick={() => setOpen(true)}>
          {t('objection.open')}
        </Button>
      </div>
    )
  }
  return (
    <form
      noValidate
      style={{ display: 'grid', gap: 8 }}
      onSubmit={(event) => {
        event.preventDefault()
        send.mutate(text.trim())
      }}
    >
      <TextArea
        label={t('objection.label')}
        help={t('objection.help')}
        rows={3}
        maxLength={MOST_CHARACTERS}
        autoFocus
        error={fieldErrors(send.error).text}
        value={text}
        onChange={(event) => setText(event.target.value)}
      />
      {send.isError && <ErrorPanel what={t('objection.failed')} error={send.error} />}
      <Row>
        <Button small look="primary" type="submit" disabled={text.trim() === ''} busy={send.isPending}>
          {t('objection.send')}
        </Button>
        <Button small onClick={() => setOpen(false)}>
          {t('action.cancel')}
        </Button>
      </Row>
    </form>
  )
}
