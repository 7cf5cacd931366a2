/** The guideline as text; saving makes a new version, which people may have to confirm again. */
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import type { Project } from 'src/api/schema'
import { addGuideline } from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import { Markdown } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { TextArea } from 'src/ui/widgets/Field'
import { Card, Columns, Row } from 'src/ui/widgets/Page'
import { ErrorPanel } from 'src/ui/widgets/States'

export function GuidelineEditor({ slug, guideline }: { slug: string; guideline: Project['guideline'] }) {
  const { canManage } = useMembership(slug)
  const now = guideline?.text ?? ''
  const [edit, setEdit] = useState<string | null>(null)
  const text = edit ?? now
  const save = useWrite(
    slug,
    () => addGuideline(slug, text),
    () => setEdit(null),
  )
  return (
    <Card
      title={guideline ? t('settings.guidelineVersion', { number: guideline.number }) : t('task.guideline')}
      note={t('settings.guidelineNote')}
    >
      <Columns width={420}>
        <TextArea
          label={t('settings.guidelineText')}
          rows={18}
          disabled={!canManage}
          value={text}
          onChange={(event) => setEdit(event.target.value)}
        />
        <section aria-label={t('settings.guidelinePreview')}>
          <Markdown text={text} prefix="guideline-preview-" />
        </section>
      </Columns>
      {save.isError && <ErrorPanel what={t('settings.saveFailed')} error={save.error} />}
      {canManage && (
        <Row>
          <Button look="primary" disabled={text === now} busy={save.isPending} onClick={() => save.mutate(undefined)}>
            {t('settings.newVersion')}
          </Button>
        </Row>
      )}
    </Card>
  )
}
