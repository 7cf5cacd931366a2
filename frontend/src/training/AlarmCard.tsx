/** One alarm as a person needs it to decide: why it rang, what can be done about it, and what was. */
import { HandHelping, Pause, TrendingDown } from 'lucide-react'
import { type ReactNode, useState } from 'react'
import { useMembership } from 'src/api/membership'
import { acknowledgeAlarm, actOnAlarm } from 'src/api/modelsApi'
import { isOver } from 'src/api/queries'
import type { Alarm, AlarmActionEnum, AlarmActRequest } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/training/Alarms.module.css'
import { measured, typedNumber } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { TextArea, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { JobStatus } from 'src/ui/widgets/JobStatus'
import { Card, Facts } from 'src/ui/widgets/Page'
import { JobLink } from 'src/ui/widgets/Reach'
import { Link } from 'wouter'

const ICONS = { pause: Pause, lower_budget: TrendingDown, ask_people: HandHelping }

type Doing = AlarmActionEnum | 'acknowledge' | null

/** `inJob`: on the page of its job, which need not be named again. */
export function AlarmCard({ slug, alarm, inJob = false }: { slug: string; alarm: Alarm; inJob?: boolean }) {
  const { canManage } = useMembership(slug)
  const [doing, setDoing] = useState<Doing>(null)
  const open = alarm.acknowledged_at === null
  const close = () => setDoing(null)
  return (
    <Card
      title={
        <span className={styles.title}>
          {alarm.title}
          <Badge tone={open ? 'warn' : 'plain'}>{t(open ? 'alarm.state.open' : 'alarm.state.acknowledged')}</Badge>
        </span>
      }
      note={<Where slug={slug} alarm={alarm} inJob={inJob} />}
      actions={
        canManage &&
        (alarm.actions.length > 0 || open) && (
          <>
            {alarm.actions.map((action) => {
              const Icon = ICONS[action]
              return (
                <Button key={action} small onClick={() => setDoing(action)}>
                  <Icon size={15} aria-hidden="true" />
                  {t(`alarm.act.${action}`)}
                </Button>
              )
            })}
            {open && (
              <Button small look="primary" onClick={() => setDoing('acknowledge')}>
                {t('alarm.acknowledge')}
              </Button>
            )}
          </>
        )
      }
    >
      <Facts items={facts(slug, alarm)} />
      <Figures alarm={alarm} />
      <Done slug={slug} alarm={alarm} />
      {doing === 'acknowledge' && <AcknowledgeDialog slug={slug} alarm={alarm} onClose={close} />}
      {doing !== null && doing !== 'acknowledge' && (
        <ActDialog slug={slug} alarm={alarm} action={doing} onClose={close} />
      )}
    </Card>
  )
}

function Where({ slug, alarm, inJob }: { slug: string; alarm: Alarm; inJob: boolean }) {
  const { job, step, attempt } = alarm
  return (
    <span className={styles.where}>
      {job && !inJob && (
        <>
          <JobLink slug={slug} job={job} />
          <JobStatus status={job.status} />
        </>
      )}
      {step !== null && <span>{t('alarm.atStep', { step })}</span>}
      {attempt != null && attempt > 1 && <span>{t('alarm.attempt', { attempt })}</span>}
      <span>
        {t('alarm.raised')} <Time at={alarm.raised_at} />
      </span>
    </span>
  )
}

function facts(slug: string, alarm: Alarm): [string, ReactNode][] {
  const { evidence, job, best_checkpoint: best, checkpoint_before: before } = alarm
  const items: [string, ReactNode][] = [
    [
      t('alarm.why'),
      <ul key="why" className={styles.why}>
        {evidence.length === 0 && <li>{alarm.measures}</li>}
        {evidence.map((reason) => (
          <li key={reason.text}>{reason.text}</li>
        ))}
      </ul>,
    ],
    [t('alarm.limit'), alarm.limit],
    [t('alarm.remedy'), alarm.remedy],
  ]
  // Alarms of the platform have no step, and no checkpoint would help.
  if (job && alarm.step !== null) {
    const at = (found: { step: number } | null, none: string) =>
      found ? (
        <Link href={`/r/${slug}/jobs/${job.id}?tab=history`}>{t('model.stepOf', { step: found.step })}</Link>
      ) : (
        <span className="muted">{none}</span>
      )
    items.push(
      [t('alarm.best'), at(best, t(isOver(job) ? 'alarm.noCheckpoint' : 'alarm.noBest'))],
      [t('alarm.before'), at(before, t('alarm.noCheckpoint'))],
    )
  }
  return items
}

function Figures({ alarm }: { alarm: Alarm }) {
  const figures = Object.entries(Object.assign({}, ...alarm.evidence.map((reason) => reason.figures)) as object)
  if (figures.length === 0) return null
  return (
    <details>
      <summary className={styles.summary}>{t('alarm.figures')}</summary>
      <Facts
        items={figures.map(([name, value]): [string, ReactNode] => [
          name,
          <code key={name}>{typeof value === 'number' ? measured(value) : String(value)}</code>,
        ])}
      />
    </details>
  )
}

function Done({ slug, alarm }: { slug: string; alarm: Alarm }) {
  const { done, acknowledged_at, acknowledged_by, note } = alarm
  if (done.length === 0 && acknowledged_at === null) return null
  return (
    <ul className={styles.done} aria-label={t('alarm.done')}>
      {done.map(({ action, at, by, job, round, step, budget, samples }) => (
        <li key={action}>
          <span>
            {by ?? t('alarm.somebody')} {action === 'pause' && t('alarm.did.pause')}
            {action === 'lower_budget' && t('alarm.did.lower_budget', { step: step ?? 0, budget: measured(budget) })}
            {action === 'ask_people' && t('alarm.did.ask_people', { samples: samples ?? 0, step: step ?? 0 })}
          </span>
          <span className="muted small">
            <Time at={at} />
          </span>
          {round ? (
            <LinkButton small look="quiet" href={`/r/${slug}/comparisons?round=${round}`}>
              {t('alarm.toRound')}
            </LinkButton>
          ) : (
            job &&
            job !== alarm.job?.id && (
              <LinkButton small look="quiet" href={`/r/${slug}/jobs/${job}`}>
                {t('alarm.toJob')}
              </LinkButton>
            )
          )}
        </li>
      ))}
      {acknowledged_at !== null && (
        <li>
          <span>
            {t('alarm.said', { who: acknowledged_by ?? t('alarm.somebody') })}: {note}
          </span>
          <span className="muted small">
            <Time at={acknowledged_at} />
          </span>
        </li>
      )}
    </ul>
  )
}

type DialogProps = { slug: string; alarm: Alarm; onClose: () => void }

function AcknowledgeDialog({ slug, alarm, onClose }: DialogProps) {
  const [note, setNote] = useState('')
  const write = useWrite(slug, () => acknowledgeAlarm(slug, alarm.id, note.trim()), onClose)
  return (
    <FormDialog
      title={t('alarm.acknowledgeTitle', { title: alarm.title })}
      submit={t('alarm.acknowledge')}
      busy={write.isPending}
      error={write.error}
      failed={t('alarm.acknowledgeFailed')}
      onSubmit={() => write.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <p className="muted">{t('alarm.acknowledgeText')}</p>
          <TextArea
            label={t('alarm.note')}
            help={t('alarm.noteHelp')}
            rows={4}
            error={errors.note}
            value={note}
            onChange={(event) => setNote(event.target.value)}
          />
        </>
      )}
    </FormDialog>
  )
}

/** Text that is no number goes as it is: the server names the fault. */
const number = (text: string): number | undefined =>
  text.trim() === '' ? undefined : Number.isFinite(typedNumber(text)) ? typedNumber(text) : (text as unknown as number)

type Fields = { budget: string; samples: string; overlap: string; note: string }

/** What is sent for an action: only its own fields, and only those that were filled in. */
export function wish(action: AlarmActionEnum, fields: Fields): AlarmActRequest {
  const body: AlarmActRequest = { action }
  const own = { pause: [], lower_budget: ['budget'], ask_people: ['samples', 'overlap'] } as const
  for (const name of own[action]) {
    const value = number(fields[name])
    if (value !== undefined) body[name] = value
  }
  if (fields.note.trim() !== '') body.note = fields.note.trim()
  return body
}

function ActDialog({ slug, alarm, action, onClose }: DialogProps & { action: AlarmActionEnum }) {
  const [fields, setFields] = useState<Fields>({ budget: '', samples: '20', overlap: '', note: '' })
  const write = useWrite(slug, () => actOnAlarm(slug, alarm.id, wish(action, fields)), onClose)
  const job = alarm.job?.number ?? 0
  const step = alarm.checkpoint_before?.step ?? 0
  const field = (name: keyof Fields) => ({
    value: fields[name],
    onChange: (event: { target: { value: string } }) => setFields({ ...fields, [name]: event.target.value }),
  })
  const words = {
    pause: [t('alarm.title.pause', { number: job }), t('alarm.text.pause'), t('alarm.submit.pause')],
    lower_budget: [
      t('alarm.title.lower_budget'),
      t('alarm.text.lower_budget', { number: job, step }),
      t('alarm.submit.lower_budget', { step }),
    ],
    ask_people: [
      t('alarm.title.ask_people'),
      t('alarm.text.ask_people', { number: job }),
      t('alarm.submit.ask_people'),
    ],
  } satisfies Record<AlarmActionEnum, [string, string, string]>
  const [title, text, submit] = words[action]
  return (
    <FormDialog
      title={title}
      submit={submit}
      busy={write.isPending}
      error={write.error}
      failed={t('alarm.actFailed')}
      onSubmit={() => write.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <p className="muted">{text}</p>
          {action === 'lower_budget' && (
            <TextField
              label={t('alarm.budget')}
              help={t('alarm.budgetHelp')}
              unit={t('alarm.budgetUnit')}
              inputMode="decimal"
              error={errors.budget}
              {...field('budget')}
            />
          )}
          {action === 'ask_people' && (
            <>
              <TextField
                label={t('alarm.samples')}
                help={t('alarm.samplesHelp')}
                inputMode="numeric"
                error={errors.samples}
                {...field('samples')}
              />
              <TextField
                label={t('alarm.overlap')}
                help={t('alarm.overlapHelp')}
                inputMode="numeric"
                error={errors.overlap}
                {...field('overlap')}
              />
            </>
          )}
          <TextArea
            label={t('alarm.noteOptional')}
            help={t('alarm.noteOptionalHelp')}
            rows={2}
            error={errors.note}
            {...field('note')}
          />
        </>
      )}
    </FormDialog>
  )
}
