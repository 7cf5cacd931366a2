/** Rounds that open by themselves: whether they do, what is due, and the form that says how. */
import { useQuery } from '@tanstack/react-query'
import { type ReactNode, useState } from 'react'
import { changeSchedule, scheduleQuery } from 'src/api/evaluationsApi'
import type { Schedule, ScheduleChangeRequest } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { RoundFields } from 'src/training/RoundFields'
import { NEW_PLAN, type PlanDraft, scheduleBody, scheduleDraft } from 'src/training/roundPlan'
import { t } from 'src/ui/i18n/t'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { SelectField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { Card, Facts, Row } from 'src/ui/widgets/Page'
import { Loaded, Notice, Skeleton } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const OPPONENTS = ['previous', 'base', 'itself'] as const

export function ScheduleCard({ slug, canManage }: { slug: string; canManage: boolean }) {
  const schedule = useQuery(scheduleQuery(slug))
  const [editing, setEditing] = useState(false)
  return (
    <Card
      title={
        <Row>
          {t('schedule.title')}
          {schedule.data && (
            <Badge tone={schedule.data.is_on ? 'ok' : 'plain'}>
              {t(schedule.data.is_on ? 'schedule.on' : 'schedule.off')}
            </Badge>
          )}
        </Row>
      }
      note={t('schedule.note')}
      actions={
        canManage &&
        schedule.data && (
          <Button small onClick={() => setEditing(true)}>
            {t(schedule.data.is_on ? 'schedule.change' : 'schedule.setUp')}
          </Button>
        )
      }
    >
      <Loaded query={schedule} what={t('schedule.failed')} skeleton={<Skeleton rows={3} />}>
        {(found) => <Shown slug={slug} schedule={found} />}
      </Loaded>
      {editing && schedule.data && (
        <ScheduleForm slug={slug} schedule={schedule.data} onClose={() => setEditing(false)} />
      )}
    </Card>
  )
}

function Shown({ slug, schedule }: { slug: string; schedule: Schedule }) {
  const { is_on, opponent, prompts, since, problem, due, opened, updated_at, updated_by } = schedule
  if (updated_at === null) return <p className="muted">{t('schedule.never')}</p>
  return (
    <>
      {problem && (
        <Notice tone="warn" role="status">
          {t('schedule.problem', { problem })}
        </Notice>
      )}
      <Facts
        items={[
          ...(due
            ? ([
                [
                  t('schedule.due'),
                  <Link key="due" href={`/r/${slug}/policies/${due.id}`}>
                    {due.name}
                  </Link>,
                ],
              ] as [string, ReactNode][])
            : []),
          [
            t('schedule.opened'),
            opened ? (
              <>
                {t('round.title', { number: opened.number })} ·{' '}
                <Link href={`/r/${slug}/policies/${opened.opened_for.id}`}>{opened.opened_for.name}</Link> ·{' '}
                <Time at={opened.created_at} />
              </>
            ) : (
              t('schedule.nothingOpened')
            ),
          ],
          [t('schedule.against'), t(`schedule.opponent.${opponent}`)],
          [t('round.promptsField'), prompts === null ? t('schedule.allPrompts') : t('round.prompts', { n: prompts })],
          ...(is_on && since
            ? ([[t('schedule.since'), <Time key="since" at={since} />]] as [string, ReactNode][])
            : []),
          [
            t('schedule.updated'),
            <span key="updated">
              <Time at={updated_at} />
              {updated_by && ` · ${updated_by}`}
            </span>,
          ],
        ]}
      />
    </>
  )
}

/** Cross-source pairs need two sides: nothing else of a round's defaults differs for a schedule. */
const firstDraft: PlanDraft = { ...NEW_PLAN, completions: '', prompts: '100' }

function ScheduleForm({ slug, schedule, onClose }: { slug: string; schedule: Schedule; onClose: () => void }) {
  const [plan, setPlan] = useState(() => (schedule.updated_at === null ? firstDraft : scheduleDraft(schedule)))
  const [isOn, setOn] = useState(schedule.updated_at === null || schedule.is_on)
  const [opponent, setOpponent] = useState(schedule.opponent)
  const save = useWrite(slug, (body: ScheduleChangeRequest) => changeSchedule(slug, body), onClose)
  return (
    <FormDialog
      title={t('schedule.title')}
      width={760}
      submit={t('action.save')}
      busy={save.isPending}
      error={save.error}
      failed={t('schedule.saveFailed')}
      onSubmit={() => save.mutate(scheduleBody(plan, { is_on: isOn, opponent }))}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <SelectField
            label={t('schedule.state')}
            help={t(isOn ? 'schedule.onHelp' : 'schedule.offHelp')}
            value={isOn ? 'on' : 'off'}
            onChange={({ target }) => setOn(target.value === 'on')}
            options={[
              ['on', t('schedule.on')],
              ['off', t('schedule.off')],
            ]}
          />
          <SelectField
            label={t('schedule.against')}
            help={t('schedule.againstHelp')}
            error={errors.opponent}
            value={opponent}
            onChange={({ target }) => setOpponent(OPPONENTS.find((name) => name === target.value) ?? 'previous')}
            options={OPPONENTS.map((name): [string, string] => [name, t(`schedule.opponent.${name}`)])}
          />
          <RoundFields {...{ slug, errors }} draft={plan} onChange={setPlan} />
        </>
      )}
    </FormDialog>
  )
}
