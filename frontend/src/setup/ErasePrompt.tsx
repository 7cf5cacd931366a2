/** Erasing a prompt for privacy: what goes, what stays, the deed itself, and afterwards its tombstone. */
import { useQuery } from '@tanstack/react-query'
import { Eraser } from 'lucide-react'
import { type ReactNode, useState } from 'react'
import { useMembership } from 'src/api/membership'
import { erasePrompt, promptReachQuery } from 'src/api/modelsApi'
import { isOver } from 'src/api/queries'
import type { Erasure, PromptReach } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { Conversation } from 'src/ui/content/Conversation'
import { count, exactTime } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { TextArea, TextField } from 'src/ui/widgets/Field'
import { Card, Columns, Facts, Page, Row } from 'src/ui/widgets/Page'
import { ReachLists, SnapshotLink } from 'src/ui/widgets/Reach'
import { ErrorPanel, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

export default function ErasePrompt() {
  const { slug = '', id = '' } = useParams<{ slug: string; id: string }>()
  const reach = useQuery(promptReachQuery(slug, id))
  const erased = reach.data?.erasure !== null && reach.data !== undefined
  return (
    <Page
      title={erased ? t('erasure.doneTitle') : t('erasure.title')}
      above={<Link href={`/r/${slug}/data`}>{t('nav.prompts')}</Link>}
      intro={erased ? t('erasure.doneIntro') : t('erasure.intro')}
    >
      <Loaded query={reach} what={t('lineage.failed')} skeleton={<SkeletonBoxes boxes={3} height={160} />}>
        {(found) => (
          <>
            {found.erasure ? (
              <Tombstone slug={slug} of={found.erasure} />
            ) : (
              <Card title={t('comparisons.prompt')}>
                <Conversation turns={found.messages} prefix={id} compact />
              </Card>
            )}
            <Columns width={380}>
              <Goes slug={slug} found={found} />
              <Stays slug={slug} found={found} />
            </Columns>
            {!found.erasure && <Deed slug={slug} id={id} />}
          </>
        )}
      </Loaded>
    </Page>
  )
}

function Tombstone({ slug, of }: { slug: string; of: Erasure }) {
  return (
    <Card title={t('erasure.tombstone')}>
      <Facts
        items={[
          [t('erasure.when'), exactTime(of.created_at)],
          [t('erasure.by'), of.by],
          [t('erasure.reason'), of.reason],
          [
            t('erasure.files'),
            of.finished_at ? (
              t('erasure.filesDone', { when: exactTime(of.finished_at) })
            ) : (
              <Badge key="due" tone="live">
                {t('erasure.filesDue')}
              </Badge>
            ),
          ],
          ...of.snapshots.map(({ snapshot, lines }): [string, ReactNode] => [
            t('snapshot.title', { number: snapshot.number }),
            <span key={snapshot.id}>
              {t('erasure.lines', { n: lines })} · <SnapshotLink slug={slug} snapshot={snapshot} />
            </span>,
          ]),
        ]}
      />
    </Card>
  )
}

type PartProps = { slug: string; found: PromptReach }

function Goes({ slug, found }: PartProps) {
  const { completions, comparisons, votes, later, frozen, erasure, snapshots } = found
  return (
    <Card title={erasure ? t('erasure.went') : t('erasure.goes')} note={t('erasure.goesNote')}>
      <Facts
        items={[
          [t('erasure.completions'), count(completions)],
          [t('erasure.comparisons'), count(comparisons)],
          [t('erasure.votes'), count(votes)],
          ...(later > 0 ? [[t('erasure.later'), count(later)] as [string, string]] : []),
          [t('erasure.frozen'), count(frozen)],
        ]}
      />
      {snapshots.length > 0 && (
        <ReachLists slug={slug} found={{ snapshots, jobs: [], models: [], runs: [] }} nothing="" />
      )}
      <p className="muted">{t('erasure.alsoGoes')}</p>
    </Card>
  )
}

function Stays({ slug, found }: PartProps) {
  const { models, jobs } = found
  const running = jobs.filter((job) => !isOver(job)).length
  return (
    <Card title={t('erasure.stays')} note={t('erasure.staysNote')}>
      {models.length > 0 && (
        <Notice tone="warn">
          {t('erasure.models', { n: models.length })} {t('erasure.modelsText')}
        </Notice>
      )}
      {running > 0 && <Notice tone="warn">{t('erasure.running', { n: running })}</Notice>}
      <ReachLists slug={slug} found={{ ...found, snapshots: [] }} nothing={t('erasure.noneTrained')} />
    </Card>
  )
}

/** Both fields are asked for before the button works: nobody does this by a slip. */
function Deed({ slug, id }: { slug: string; id: string }) {
  const { isOwner } = useMembership(slug)
  const [reason, setReason] = useState('')
  const [confirm, setConfirm] = useState('')
  const erase = useWrite(slug, () => erasePrompt(slug, id, { reason: reason.trim(), confirm }))
  if (!isOwner) return <Notice>{t('erasure.onlyOwners')}</Notice>
  return (
    <Card title={t('erasure.deed')} note={t('erasure.deedNote')}>
      <form
        style={{ display: 'grid', gap: 16, maxInlineSize: 560 }}
        onSubmit={(event) => {
          event.preventDefault()
          erase.mutate(undefined)
        }}
      >
        <TextArea
          label={t('erasure.reason')}
          help={t('erasure.reasonHelp')}
          rows={2}
          maxLength={300}
          value={reason}
          onChange={(event) => setReason(event.target.value)}
        />
        <TextField
          label={t('erasure.confirm', { slug })}
          help={t('erasure.confirmHelp')}
          spellCheck={false}
          value={confirm}
          onChange={(event) => setConfirm(event.target.value)}
        />
        <Row>
          <Button look="danger" type="submit" busy={erase.isPending} disabled={confirm !== slug || !reason.trim()}>
            <Eraser size={16} aria-hidden="true" />
            {t('erasure.submit')}
          </Button>
        </Row>
        {erase.isError && <ErrorPanel what={t('erasure.failed')} error={erase.error} />}
      </form>
    </Card>
  )
}
