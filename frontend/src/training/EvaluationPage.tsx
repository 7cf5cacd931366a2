/** One evaluation: all verdicts side by side, how far the judges agree, and one more judge. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Plus } from 'lucide-react'
import { useState } from 'react'
import { addJudge, evaluationQuery } from 'src/api/evaluationsApi'
import { useMembership } from 'src/api/membership'
import { modelListQuery } from 'src/api/modelsApi'
import { isOver } from 'src/api/queries'
import type { EvaluationDetail, JudgeInputRequest } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { AgreementTable, Judges, NoWord, Shares, WinRates } from 'src/training/EvaluationFigures'
import styles from 'src/training/Evaluations.module.css'
import { ServedJudgeFields } from 'src/training/JudgeFields'
import { judgeName, rewardBody, type ServedJudge, servedBody } from 'src/training/judges'
import { DASH } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Progress, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { ChoiceCard, ChoiceGroup, SelectField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Page } from 'src/ui/widgets/Page'
import { Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

export default function EvaluationPage() {
  const { slug = '', id = '' } = useParams<{ slug: string; id: string }>()
  const { canManage } = useMembership(slug)
  const found = useQuery(evaluationQuery(slug, id))
  const [adding, setAdding] = useState(false)
  const evaluation = found.data
  const title = evaluation ? t('evaluation.title', { number: evaluation.number }) : t('nav.evaluations')
  return (
    <Page
      title={title}
      heading={evaluation?.name ? `${title} · ${evaluation.name}` : title}
      above={<Link href={`/r/${slug}/evaluations`}>{t('nav.evaluations')}</Link>}
      intro={evaluation && <Sides slug={slug} evaluation={evaluation} />}
      actions={
        evaluation && (
          <>
            <LinkButton href={`/r/${slug}/comparisons?round=${evaluation.round}`}>
              {t('round.seeComparisons')}
            </LinkButton>
            {canManage && (
              <Button look="primary" onClick={() => setAdding(true)}>
                <Plus size={16} aria-hidden="true" />
                {t('evaluation.addJudge')}
              </Button>
            )}
          </>
        )
      }
    >
      <Loaded query={found} what={t('evaluation.failed')} skeleton={<SkeletonBoxes boxes={2} height={240} />}>
        {(one) => <Shown slug={slug} evaluation={one} />}
      </Loaded>
      {adding && evaluation && <AddJudge slug={slug} evaluation={evaluation} onClose={() => setAdding(false)} />}
    </Page>
  )
}

function Sides({ slug, evaluation }: { slug: string; evaluation: EvaluationDetail }) {
  const { first, second, prompts, created_at, created_by } = evaluation
  return (
    <>
      <Link href={`/r/${slug}/policies/${first.id}`}>{first.name}</Link> {t('evaluation.versus')}{' '}
      <Link href={`/r/${slug}/policies/${second.id}`}>{second.name}</Link> · {t('round.prompts', { n: prompts })} ·{' '}
      <Time at={created_at} />
      {created_by && ` · ${created_by}`}
    </>
  )
}

function Shown({ slug, evaluation }: { slug: string; evaluation: EvaluationDetail }) {
  const { verdicts, agreement, first, second } = evaluation
  const verdictName = (id: string) => {
    const verdict = verdicts.find((one) => one.id === id)
    return verdict ? judgeName(verdict) : DASH
  }
  return (
    <>
      <Sampling evaluation={evaluation} />
      <FailedJudges slug={slug} verdicts={verdicts} />
      <Cautions evaluation={evaluation} />
      <Card title={t('verdict.title')} note={t('verdict.note', { first: first.name })} flush>
        <WinRates slug={slug} evaluation={evaluation} />
      </Card>
      <Card title={t('verdict.shares')} note={t('verdict.sharesNote', { first: first.name })} flush>
        <div className={styles.inset}>
          <ul className={styles.sides}>
            <li>
              <i className={styles.win} aria-hidden="true" />
              {t('verdict.winOf', { name: first.name })}
            </li>
            <li>
              <i className={styles.tie} aria-hidden="true" />
              {t('verdict.tie')}
            </li>
            <li>
              <i className={styles.loss} aria-hidden="true" />
              {t('verdict.winOf', { name: second.name })}
            </li>
          </ul>
        </div>
        <Shares slug={slug} evaluation={evaluation} />
      </Card>
      <Card title={t('agreed.title')} note={t('agreed.note')} flush>
        {agreement.length === 0 ? (
          <p className={`${styles.inset} muted`}>{t('agreed.none')}</p>
        ) : (
          <AgreementTable rows={agreement} nameOf={verdictName} />
        )}
      </Card>
      <Card title={t('verdict.judges')} note={t('verdict.judgesNote')} flush>
        <Judges slug={slug} evaluation={evaluation} />
      </Card>
    </>
  )
}

function Sampling({ evaluation }: { evaluation: EvaluationDetail }) {
  const { status, completions_done, completions_wanted } = evaluation
  if (status === 'succeeded') return null
  return (
    <Card title={t('evaluation.sampling')} actions={<JobStatus status={status} />}>
      <Progress label={t('round.progress')} value={completions_done} max={completions_wanted} />
      <p className="muted">
        {t('round.done', { done: completions_done, wanted: completions_wanted })}
        {isOver({ status }) && ` · ${t('evaluation.notFinished')}`}
      </p>
    </Card>
  )
}

/** A judge whose job failed is said first, with its reason: its rows below are empty for no fault of the policies. */
function FailedJudges({ slug, verdicts }: { slug: string; verdicts: EvaluationDetail['verdicts'] }) {
  const failed = verdicts.filter(({ job }) => job?.status === 'failed')
  if (failed.length === 0) return null
  return (
    <Notice tone="error" role="alert">
      <strong>{t('verdict.someFailed', { n: failed.length })}</strong>
      {failed.map((verdict) => (
        <div key={verdict.id}>
          {judgeName(verdict)}: <NoWord slug={slug} verdict={verdict} />
        </div>
      ))}
    </Notice>
  )
}

/** What to know before a figure is believed. */
function Cautions({ evaluation }: { evaluation: EvaluationDetail }) {
  const { first, second, trained_prompts, prompts, pairs, identical } = evaluation
  return (
    <>
      {[first, second].map(({ id, name }, index) => {
        const seen = trained_prompts[index]
        if (seen === null) return <Notice key={id}>{t('evaluation.trainedUnknown', { name })}</Notice>
        if (!seen) return null
        return (
          <Notice key={id} tone="warn">
            {t('evaluation.trained', { name, n: seen, prompts })}
          </Notice>
        )
      })}
      {identical > 0 && <Notice>{t('evaluation.identical', { n: identical, pairs })}</Notice>}
    </>
  )
}

const KINDS = ['reward', 'judge'] as const
type Kind = (typeof KINDS)[number]

type AddProps = { slug: string; evaluation: EvaluationDetail; onClose: () => void }

/** People judge as a round samples: they can only be named at the start. */
function AddJudge({ slug, evaluation, onClose }: AddProps) {
  const rewards = (useInfiniteQuery(modelListQuery(slug, 'no')).data ?? []).filter(({ kind }) => kind === 'reward')
  const [kind, setKind] = useState<Kind>('reward')
  const [reward, setReward] = useState('')
  const [served, setServed] = useState<ServedJudge>({ key: 0, url: '', model: '', prompt: '' })
  const add = useWrite(slug, (body: JudgeInputRequest) => addJudge(slug, evaluation.id, body), onClose)
  const model = reward || (rewards[0]?.id ?? '')
  return (
    <FormDialog
      title={t('evaluation.addJudge')}
      submit={t('evaluation.addJudgeSubmit')}
      busy={add.isPending}
      error={add.error}
      failed={t('evaluation.judgeFailed')}
      onSubmit={() => add.mutate(kind === 'reward' ? rewardBody(model) : servedBody(served))}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <ChoiceGroup legend={t('evaluation.judgeKind')} error={errors.kind}>
            {KINDS.map((name) => (
              <ChoiceCard
                key={name}
                kind="radio"
                name="kind"
                label={t(`judge.${name}`)}
                note={t(`judge.${name}Help`)}
                checked={kind === name}
                onChange={() => setKind(name)}
              />
            ))}
          </ChoiceGroup>
          {kind === 'judge' ? (
            <ServedJudgeFields judge={served} errors={errors} onChange={setServed} />
          ) : rewards.length === 0 ? (
            <Notice>{t('judge.noRewards')}</Notice>
          ) : (
            <SelectField
              label={t('judge.reward')}
              error={errors.model}
              value={model}
              onChange={({ target }) => setReward(target.value)}
              options={rewards.map(({ id, name }): [string, string] => [id, name])}
            />
          )}
          <p className="muted small">{t('evaluation.peopleAtStart')}</p>
        </>
      )}
    </FormDialog>
  )
}
