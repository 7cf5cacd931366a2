/** Evaluations: two policies on the same prompts, and who has judged them so far. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Plus, Swords, Trophy } from 'lucide-react'
import { evaluationsQuery } from 'src/api/evaluationsApi'
import { useMembership } from 'src/api/membership'
import { isOver } from 'src/api/queries'
import type { Evaluation, Verdict } from 'src/api/schema'
import styles from 'src/training/Evaluations.module.css'
import { judgeName } from 'src/training/judges'
import { NewEvaluation } from 'src/training/NewEvaluation'
import { count } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Badge, Time, type Tone } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Page } from 'src/ui/widgets/Page'
import { Link, useParams } from 'wouter'

export default function Evaluations() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, change] = useAddress()
  const list = useInfiniteQuery(evaluationsQuery(slug))
  const open = search.get('new') === '1'
  const toggle = (on: boolean) => change(on ? { new: '1' } : { new: '', first: '', second: '' })
  const button = canManage && (
    <Button look="primary" onClick={() => toggle(true)}>
      <Plus size={16} aria-hidden="true" />
      {t('evaluation.new')}
    </Button>
  )
  const columns: Column<Evaluation>[] = [
    { name: 'number', header: '#', align: 'end', cell: ({ number }) => number },
    {
      name: 'policies',
      header: t('evaluation.policies'),
      wrap: true,
      cell: (row) => (
        <>
          <Link href={`/r/${slug}/evaluations/${row.id}`}>
            {t('evaluation.against', { first: row.first.name, second: row.second.name })}
          </Link>
          {row.name && <div className="muted small">{row.name}</div>}
        </>
      ),
    },
    { name: 'status', header: t('evaluation.sampled'), cell: ({ status }) => <JobStatus status={status} /> },
    {
      name: 'judges',
      header: t('evaluation.judges'),
      wrap: true,
      cell: ({ verdicts }) => <JudgeBadges of={verdicts} />,
    },
    { name: 'prompts', header: t('round.promptsField'), align: 'end', cell: ({ prompts }) => count(prompts) },
    { name: 'created', header: t('job.created'), cell: ({ created_at }) => <Time at={created_at} /> },
    { name: 'by', header: t('job.by'), cell: ({ created_by }) => <span className="muted">{created_by}</span> },
  ]
  return (
    <Page
      title={t('nav.evaluations')}
      intro={t('evaluation.intro')}
      actions={
        <>
          <LinkButton href={`/r/${slug}/strengths`}>
            <Trophy size={16} aria-hidden="true" />
            {t('nav.strengths')}
          </LinkButton>
          {button}
        </>
      }
    >
      <ListCard
        title={t('nav.evaluations')}
        query={list}
        failed={t('evaluation.listFailed')}
        columns={columns}
        rowKey={({ id }) => id}
        empty={{ icon: Swords, title: t('evaluation.none'), text: t('evaluation.noneText'), action: button }}
      />
      {open && canManage && (
        <NewEvaluation
          slug={slug}
          chosen={{ first: search.get('first') ?? '', second: search.get('second') ?? '' }}
          onClose={() => toggle(false)}
        />
      )}
    </Page>
  )
}

function toneOf({ job }: Verdict): Tone {
  if (job === null || job.status === 'cancelled') return 'plain'
  if (!isOver(job)) return 'live'
  return job.status === 'succeeded' ? 'ok' : 'error'
}

/** Who judges, each with how far that is in words. */
function JudgeBadges({ of }: { of: Verdict[] }) {
  return (
    <span className={styles.badges}>
      {of.map((verdict) => (
        <Badge key={verdict.id} tone={toneOf(verdict)}>
          {verdict.job === null
            ? judgeName(verdict)
            : t('judge.withState', { name: judgeName(verdict), state: t(`status.${verdict.job.status}`) })}
        </Badge>
      ))}
    </span>
  )
}
