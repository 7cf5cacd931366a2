/** On the page of a snapshot: which of its pairs look alike to a policy, so that DPO would push down what people chose. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Equal, Gavel, Ruler, Scissors } from 'lucide-react'
import { useMemo, useState } from 'react'
import { sendToAdjudication } from 'src/api/adjudication'
import { useMembership } from 'src/api/membership'
import { isOver, modelsQuery, submitJob } from 'src/api/queries'
import type { MeasuredSimilarity, SimilarityDecile, SimilarPair, Snapshot, SnapshotSimilarity } from 'src/api/schema'
import { snapshotSimilarityQuery } from 'src/api/snapshotsApi'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/training/SimilarPairs.module.css'
import { registered } from 'src/training/wish'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { Markdown, Marked, useRenderer } from 'src/ui/content/Markdown'
import { FormattingNotice, useFormatting } from 'src/ui/content/useFormatting'
import { count, fixed, measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { ChoiceCard, SelectField, TextArea } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Row } from 'src/ui/widgets/Page'
import { JobLink } from 'src/ui/widgets/Reach'
import { Empty, ErrorPanel, Loaded, Notice, Skeleton } from 'src/ui/widgets/States'

/** The tenth that a new job leaves out, as the form of jobs reads it from its address. */
const LEFT_OUT = 'dpo.drop_similar=0.1'

export function SimilarPairs({ slug, snapshot }: { slug: string; snapshot: Snapshot }) {
  const found = useQuery({
    ...snapshotSimilarityQuery(slug, snapshot.id),
    enabled: snapshot.kind === 'preferences' && snapshot.counts.train > 0,
  })
  if (snapshot.kind !== 'preferences' || snapshot.counts.train === 0) return null
  return (
    <Card title={t('similar.title')} note={t('similar.note')}>
      <Loaded query={found} what={t('similar.failed')} skeleton={<Skeleton rows={4} />}>
        {(similarity) => <Found slug={slug} snapshot={snapshot} similarity={similarity} />}
      </Loaded>
    </Card>
  )
}

type Props = { slug: string; snapshot: Snapshot }

function Found({
  slug,
  snapshot,
  similarity: { latest, measured: figures },
}: Props & { similarity: SnapshotSimilarity }) {
  const { canManage } = useMembership(slug)
  const [again, setAgain] = useState(false)
  const waits = latest !== null && !isOver(latest)
  const start = canManage && <Start slug={slug} snapshot={snapshot} onStarted={() => setAgain(false)} />
  return (
    <>
      {waits && (
        <Notice role="status" action={<JobStatus status={latest.status} />}>
          {t('similar.waits')} <JobLink slug={slug} job={latest} />
        </Notice>
      )}
      {latest !== null && (latest.status === 'failed' || latest.status === 'cancelled') && (
        <Notice tone="error">
          {t(latest.status === 'failed' ? 'similar.jobFailed' : 'similar.jobCancelled', { reason: latest.reason })}{' '}
          <JobLink slug={slug} job={latest} />
        </Notice>
      )}
      {figures && <Figures slug={slug} snapshot={snapshot} found={figures} />}
      {figures === null && !waits && (
        <Empty icon={Equal} title={t('similar.none')}>
          {t('similar.noneText')}
        </Empty>
      )}
      {!waits && (figures === null || again) && start}
      {!waits && figures !== null && !again && canManage && (
        <Row>
          <Button small onClick={() => setAgain(true)}>
            <Ruler size={15} aria-hidden="true" />
            {t('similar.again')}
          </Button>
        </Row>
      )}
    </>
  )
}

/** An evaluation job of the usual kind, with a policy of the project or of the site. */
function Start({ slug, snapshot, onStarted }: Props & { onStarted: () => void }) {
  const models = useInfiniteQuery(modelsQuery(slug)).data ?? []
  const offers = registered(models, 'policy')
  const [chosen, setChosen] = useState('')
  const policy = offers.find(({ ref }) => ref === chosen) ?? offers[0]
  const start = useWrite(
    slug,
    (model: string) =>
      submitJob(slug, {
        method: 'evaluate',
        snapshot: snapshot.id,
        model,
        title: t('similar.jobTitle', { number: snapshot.number }),
        config: { data: { part: 'train' }, evaluate: { similarity: true } },
      }),
    onStarted,
  )
  if (policy === undefined) return <Notice>{t('newJob.noModels')}</Notice>
  return (
    <>
      <div className={styles.start}>
        <SelectField
          label={t('similar.policy')}
          help={t('similar.policyHelp')}
          value={policy.ref}
          onChange={({ target }) => setChosen(target.value)}
          options={offers.map(({ ref, label }): [string, string] => [ref, label])}
        />
        <Button look="primary" busy={start.isPending} onClick={() => start.mutate(policy.ref.split(':')[1] ?? '')}>
          <Ruler size={16} aria-hidden="true" />
          {t('similar.start')}
        </Button>
      </div>
      {start.isError && <ErrorPanel what={t('newJob.failed')} error={start.error} />}
    </>
  )
}

function Figures({ slug, snapshot, found }: Props & { found: MeasuredSimilarity }) {
  const { canManage } = useMembership(slug)
  const [sending, setSending] = useState(false)
  const [sent, setSent] = useState<number | null>(null)
  const [marked, setMarked] = useState(false)
  const comparisons = [...new Set(found.highest.flatMap(({ comparison }) => comparison ?? []))]
  const model = found.model ? `&model=${found.model.id}` : ''
  return (
    <>
      <p className="muted small">
        {t('similar.by', { model: found.model?.name ?? '', n: found.pairs, part: t(`split.${found.part}`) })}{' '}
        {found.too_long > 0 && t('similar.tooLong', { n: found.too_long })} <JobLink slug={slug} job={found.job} />{' '}
        <Time at={found.measured_at} />
      </p>
      <Deciles of={found.deciles} />
      {canManage && (
        <div>
          <h3 className={styles.heading}>{t('similar.remedies')}</h3>
          <p className="muted small">{t('similar.remediesNote')}</p>
          <Row>
            <LinkButton
              small
              href={`/r/${slug}/jobs/new?method=dpo&snapshot=${snapshot.id}${model}&set=${encodeURIComponent(LEFT_OUT)}`}
            >
              <Scissors size={15} aria-hidden="true" />
              {t('similar.leaveOut')}
            </LinkButton>
            {comparisons.length > 0 && (
              <Button small onClick={() => setSending(true)}>
                <Gavel size={15} aria-hidden="true" />
                {t('similar.send', { n: comparisons.length })}
              </Button>
            )}
          </Row>
          {sent !== null && <Notice tone="ok">{t('similar.sent', { n: sent })}</Notice>}
        </div>
      )}
      <div>
        <div className={styles.heading}>
          <h3>{t('similar.highest', { n: found.highest.length })}</h3>
          <ChoiceCard
            kind="checkbox"
            label={t('similar.mark')}
            checked={marked}
            onChange={({ target }) => setMarked(target.checked)}
          />
        </div>
        <ol className={styles.pairs}>
          {found.highest.map((pair) => (
            <li key={pair.id}>
              <Pair pair={pair} marked={marked} />
            </li>
          ))}
        </ol>
      </div>
      {sending && (
        <Send
          slug={slug}
          comparisons={comparisons}
          onClose={() => setSending(false)}
          onSent={(n) => {
            setSent(n)
            setSending(false)
          }}
        />
      )}
    </>
  )
}

/** Where each tenth of the pairs lies between the lowest and the highest, with its mean. */
function Deciles({ of }: { of: SimilarityDecile[] }) {
  const low = Math.min(...of.map((part) => part.low))
  const span = Math.max(...of.map((part) => part.high)) - low || 1
  return (
    <div>
      <h3 className={styles.heading}>{t('similar.deciles')}</h3>
      <ul className={styles.deciles} aria-label={t('similar.deciles')}>
        {of.map((part) => (
          <li key={part.decile}>
            <span className="tabular">{t('similar.decile', { n: part.decile })}</span>
            <span className={styles.track} aria-hidden="true">
              <i
                className={part.decile === 10 ? styles.top : styles.range}
                style={{
                  marginInlineStart: `${(100 * (part.low - low)) / span}%`,
                  width: `${(100 * (part.high - part.low)) / span}%`,
                }}
              />
            </span>
            <span className="tabular">{measured(part.ches_normalised)}</span>
            <span className="muted small">{t('similar.cosine', { value: fixed(part.cosine) })}</span>
            <span className="muted small">{t('snapshot.preferences', { n: part.pairs })}</span>
          </li>
        ))}
      </ul>
    </div>
  )
}

function Pair({ pair, marked }: { pair: SimilarPair; marked: boolean }) {
  const [open, setOpen] = useState(false)
  return (
    <details className={styles.pair} onToggle={({ currentTarget }) => setOpen(currentTarget.open)}>
      <summary>
        <span className={styles.prompt}>{promptLine(pair.prompt, 110)}</span>
        <Badge>{t('similar.score', { value: measured(pair.ches_normalised) })}</Badge>
        <Badge>{t('similar.cosine', { value: fixed(pair.cosine) })}</Badge>
      </summary>
      {open && <Texts pair={pair} marked={marked} />}
    </details>
  )
}

function Texts({ pair, marked }: { pair: SimilarPair; marked: boolean }) {
  const { id, prompt, chosen, rejected, tokens_chosen, tokens_rejected } = pair
  const formatting = useFormatting(useMemo(() => [chosen, rejected], [chosen, rejected]))
  const renderer = useRenderer()
  const differences = useMemo(
    () => (marked && renderer.kind === 'ready' ? renderer.differences(chosen, rejected) : null),
    [marked, renderer, chosen, rejected],
  )
  const sides = [
    { title: t('diff.chosen'), text: chosen, tokens: tokens_chosen, parts: differences?.left },
    { title: t('diff.rejected'), text: rejected, tokens: tokens_rejected, parts: differences?.right },
  ]
  return (
    <div className={styles.open}>
      <Conversation turns={prompt} prefix={`${id}-p`} compact />
      <div className={styles.sides}>
        {sides.map(({ title, text, tokens, parts }, side) => (
          <section key={title} className={styles.side} aria-label={title}>
            <h4>
              {title} <span className="muted small">{t('similar.tokens', { n: tokens })}</span>
            </h4>
            {parts ? (
              <Marked parts={parts} />
            ) : (
              <Markdown text={text} prefix={`${id}-${side}-`} mode={formatting.mode} onBroken={formatting.onBroken} />
            )}
          </section>
        ))}
      </div>
      {!differences && <FormattingNotice of={formatting} />}
    </div>
  )
}

type SendProps = { slug: string; comparisons: string[]; onClose: () => void; onSent: (n: number) => void }

function Send({ slug, comparisons, onClose, onSent }: SendProps) {
  const [reason, setReason] = useState(t('similar.reason'))
  const send = useWrite(
    slug,
    () => sendToAdjudication(slug, { comparisons, reason: reason.trim() }),
    (answer) => onSent(answer.sent),
  )
  return (
    <FormDialog
      title={t('similar.send', { n: comparisons.length })}
      submit={t('send.submit')}
      busy={send.isPending}
      error={send.error}
      failed={t('error.action')}
      onSubmit={() => send.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <p className="muted">{t('similar.sendText', { count: count(comparisons.length) })}</p>
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
