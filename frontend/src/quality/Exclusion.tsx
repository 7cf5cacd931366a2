/** What excluding a person would do, before it is done; and the way back. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { exclude, exclusionQuery, reachQuery, readmit } from 'src/api/quality'
import type { AnnotatorRow, ExclusionPreview } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { Figure } from 'src/ui/charts/Estimate'
import { count } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Time } from 'src/ui/widgets/Bits'
import { TextArea } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { Facts } from 'src/ui/widgets/Page'
import { ReachLists } from 'src/ui/widgets/Reach'
import { Loaded, Notice } from 'src/ui/widgets/States'

export function ExclusionDialog({ slug, row, onClose }: { slug: string; row: AnnotatorRow; onClose: () => void }) {
  const preview = useQuery(exclusionQuery(slug, row.id))
  const reach = useQuery(reachQuery(slug, row.id))
  const [reason, setReason] = useState('')
  const back = row.excluded_at !== null
  const act = useWrite(slug, () => (back ? readmit : exclude)(slug, row.id, reason.trim()), onClose)
  return (
    <FormDialog
      title={back ? t('exclusion.readmitTitle', { name: row.name }) : t('exclusion.title', { name: row.name })}
      width={720}
      submit={back ? t('records.readmit') : t('records.exclude')}
      danger={!back}
      busy={act.isPending}
      error={act.error}
      failed={t('error.action')}
      onSubmit={() => act.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <Loaded query={preview} what={t('exclusion.failed')}>
            {(found) => <Preview found={found} back={back} />}
          </Loaded>
          <Loaded query={reach} what={t('exclusion.failed')}>
            {(found) => (
              <>
                {found.models.length > 0 && (
                  <Notice tone="warn">
                    <strong>{t('lineage.touched', { n: found.models.length })}</strong> {t('exclusion.reach')}
                  </Notice>
                )}
                <ReachLists slug={slug} found={found} nothing={t('exclusion.noReach')} />
              </>
            )}
          </Loaded>
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

function Preview({ found, back }: { found: ExclusionPreview; back: boolean }) {
  return (
    <>
      {back ? (
        <p>{t('exclusion.readmitText')}</p>
      ) : (
        <Facts
          items={[
            [t('exclusion.votes'), t('exclusion.votesOf', { votes: found.votes, comparisons: found.comparisons })],
            [t('exclusion.reopened'), count(found.reopened)],
            [t('exclusion.withoutVotes'), count(found.without_votes)],
            [t('exclusion.frozen'), count(found.frozen)],
            [
              t('agreement.alpha'),
              <span key="alpha">
                <Figure of={found.agreement.alpha} unit="coefficient" /> →{' '}
                <Figure of={found.agreement_without.alpha} unit="coefficient" />
              </span>,
            ],
          ]}
        />
      )}
      {found.history.map((fact) => (
        <p key={fact.created_at} className="muted small">
          {fact.lifted ? t('exclusion.wasReadmitted') : t('exclusion.wasExcluded')} {fact.by}: {fact.reason}{' '}
          <Time at={fact.created_at} />
        </p>
      ))}
    </>
  )
}
