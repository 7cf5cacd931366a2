/** What a job is given: a method, data, models by role, when it starts and what becomes of it, and a grid around it. */
import { Plus, X } from 'lucide-react'
import type { Field, Job, JobDetail, Machine, Method, Model, Snapshot } from 'src/api/schema'
import { type Axis, axisValues } from 'src/training/config'
import { faultText, rangeText } from 'src/training/JobFields'
import styles from 'src/training/NewJob.module.css'
import type { Offer, Plan, Ref } from 'src/training/wish'
import { count, short } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { ChoiceCard, ChoiceGroup, SelectField, TextField } from 'src/ui/widgets/Field'
import { Card, Facts } from 'src/ui/widgets/Page'
import { Notice } from 'src/ui/widgets/States'
import { Link } from 'wouter'

type Errors = Record<string, string>

/* ---- Method */

type Group = 'people' | 'scored' | 'rest'
const groupOf = (method: Method): Group =>
  !method.trains ? 'rest' : method.roles.some((role) => role.kind === 'reward') ? 'scored' : 'people'
const GROUPS: [Group, Key][] = [
  ['people', 'newJob.group.people'],
  ['scored', 'newJob.group.scored'],
  ['rest', 'newJob.group.rest'],
]

export function Methods(props: { methods: Method[]; chosen: string; onChoose: (name: string) => void }) {
  return (
    <Card title={t('newJob.method')}>
      {GROUPS.map(([group, title]) => (
        <fieldset key={group} className={styles.group}>
          <legend>{t(title)}</legend>
          <div className={styles.methods}>
            {props.methods
              .filter((method) => groupOf(method) === group)
              .map((method) => (
                <ChoiceCard
                  key={method.name}
                  kind="radio"
                  name="method"
                  label={method.title}
                  note={method.description}
                  checked={method.name === props.chosen}
                  onChange={() => props.onChoose(method.name)}
                />
              ))}
          </div>
        </fieldset>
      ))}
    </Card>
  )
}

/* ---- Data and models */

const ROLES: Record<string, [Key, Key]> = {
  rewards: ['role.rewards', 'role.rewards.help'],
  held_out: ['role.held_out', 'role.held_out.help'],
  policy: ['role.policy', 'role.policy.help'],
  reference: ['role.reference', 'role.reference.help'],
  base: ['newJob.model', 'role.base.help'],
}
export const roleTitle = (role: string): string => {
  const [title] = ROLES[role] ?? []
  return title ? t(title) : role
}
const roleHelp = (role: string): string => {
  const [, help] = ROLES[role] ?? []
  return help ? t(help) : ''
}

const offerText = (offer: Offer): string => (offer.job ? t('newJob.promised', { name: offer.label }) : offer.label)

type InputsProps = {
  slug: string
  method: Method
  snapshots: Snapshot[]
  snapshot: Snapshot | undefined
  models: Model[]
  bases: Offer[]
  base: Offer | undefined
  roles: Record<string, Ref[]>
  offers: (kind: 'policy' | 'reward') => Offer[]
  errors: Errors
  onChoose: (name: 'snapshot' | 'model', value: string) => void
  onRoles: (roles: Record<string, Ref[]>) => void
}

export function Inputs(props: InputsProps) {
  const { slug, method, snapshots, snapshot, models, bases, base, roles, offers, errors, onChoose, onRoles } = props
  const parameters = models.find((model) => `model:${model.id}` === base?.ref)?.parameters ?? null
  const none: [string, string][] = [['none', t('form.none')]]
  // A method that needs none may still take one, except that which only reads what a reward model says.
  const takesModel = method.needs_model || method.roles.some((role) => role.kind === 'policy')
  return (
    <Card title={t('newJob.inputs')}>
      <div className={styles.inputs}>
        {method.kinds.length > 0 && snapshots.length > 0 && (
          <SelectField
            label={t('newJob.snapshot')}
            error={errors.snapshot}
            help={snapshot && t('newJob.snapshotHelp', { train: snapshot.counts.train, test: snapshot.counts.test })}
            value={snapshot?.id ?? 'none'}
            onChange={(event) => onChoose('snapshot', event.target.value)}
            options={[
              ...(method.needs_snapshot ? [] : none),
              ...snapshots.map((entry): [string, string] => [
                entry.id,
                `${t('snapshot.title', { number: entry.number })}${entry.name ? ` · ${entry.name}` : ''} (${count(entry.counts.total)} ${entry.kind})`,
              ]),
            ]}
          />
        )}
        {takesModel && bases.length > 0 && (
          <SelectField
            label={t('newJob.model')}
            error={errors.model ?? errors['inputs.base']}
            help={parameters === null ? undefined : t('models.parametersShort', { n: short(parameters) })}
            value={base?.ref ?? 'none'}
            onChange={(event) => onChoose('model', event.target.value)}
            options={[
              ...(method.needs_model ? [] : none),
              ...bases.map((offer): [string, string] => [offer.ref, offerText(offer)]),
            ]}
          />
        )}
        {method.roles.map((role) => (
          <Role
            key={role.role}
            role={role}
            offers={offers(role.kind)}
            chosen={roles[role.role] ?? []}
            error={errors[`inputs.${role.role}`]}
            onChange={(refs) => onRoles({ ...roles, [role.role]: refs })}
          />
        ))}
      </div>
      {method.needs_snapshot && snapshots.length === 0 && (
        <Notice
          tone="warn"
          action={
            <LinkButton small href={`/r/${slug}/snapshots?freeze=1`}>
              {t('overview.freeze')}
            </LinkButton>
          }
        >
          {t('newJob.lacksSnapshot', { kinds: method.kinds.join(', ') })} {t('newJob.noSnapshotText')}
        </Notice>
      )}
      {takesModel && bases.length === 0 && <Notice tone="warn">{t('newJob.noModels')}</Notice>}
    </Card>
  )
}

type RoleProps = {
  role: Method['roles'][number]
  offers: Offer[]
  chosen: Ref[]
  error: string | undefined
  onChange: (refs: Ref[]) => void
}

/** One model is a select; several are a list that grows. */
function Role({ role, offers, chosen, error, onChange }: RoleProps) {
  const title = roleTitle(role.role)
  if (offers.length === 0) {
    return (
      <div className={styles.role}>
        <strong>{title}</strong>
        <span className="muted small">
          {t(role.least > 0 ? 'newJob.lacksOffers' : 'newJob.noOffers')} {roleHelp(role.role)}
        </span>
      </div>
    )
  }
  const rows = chosen.length === 0 ? [''] : chosen
  const left = offers.filter((offer) => !chosen.includes(offer.ref))
  const at = (index: number, ref: string) =>
    onChange(rows.map((one, place) => (place === index ? ref : one)).filter((one) => one !== ''))
  return (
    <div className={styles.role}>
      {rows.map((ref, index) => (
        <SelectField
          // biome-ignore lint/suspicious/noArrayIndexKey: a place in a list, not a model.
          key={index}
          label={rows.length > 1 ? t('newJob.roleOf', { role: title, n: index + 1 }) : title}
          help={index === 0 ? roleHelp(role.role) : undefined}
          error={index === 0 ? error : undefined}
          value={ref}
          onChange={(event) => at(index, event.target.value)}
          options={[
            ...(chosen.length > role.least || ref === '' ? [['', t('form.none')] satisfies [string, string]] : []),
            ...offers
              .filter((offer) => offer.ref === ref || !chosen.includes(offer.ref))
              .map((offer): [string, string] => [offer.ref, offerText(offer)]),
          ]}
        />
      ))}
      {chosen.length > 0 && chosen.length < role.most && left[0] && (
        <Button small look="quiet" onClick={() => onChange([...chosen, left[0]?.ref ?? ''])}>
          <Plus size={14} aria-hidden="true" />
          {t('newJob.addModel')}
        </Button>
      )}
    </div>
  )
}

/* ---- When it starts, and what becomes of it */

type StartProps = {
  method: Method
  machines: Machine[]
  plan: Plan
  jobs: Job[]
  isSweep: boolean
  errors: Errors
  onChange: (part: Partial<Plan>) => void
}

export function Start({ method, machines, plan, jobs, isSweep, errors, onChange }: StartProps) {
  const open = jobs.filter((job) => job.status === 'queued' || job.status === 'running')
  const preset = method.presets.find((entry) => entry.name === plan.preset)
  return (
    <Card title={t('newJob.start.title')}>
      <div className={styles.inputs}>
        {method.presets.length > 0 && (
          <SelectField
            label={t('newJob.preset')}
            help={preset?.help ?? t('newJob.presetHelp')}
            error={errors.preset}
            value={preset?.name ?? ''}
            onChange={(event) => onChange({ preset: event.target.value })}
            options={[['', t('form.none')], ...method.presets.map(({ name }): [string, string] => [name, name])]}
          />
        )}
        <SelectField
          label={t('newJob.machine')}
          help={t('newJob.machineHelp')}
          error={errors.machine}
          value={plan.machine}
          onChange={(event) => onChange({ machine: event.target.value })}
          options={[['', t('newJob.machineAny')], ...machines.map(({ name }): [string, string] => [name, name])]}
        />
        <Named plan={plan} errors={errors} onChange={onChange} />
        {method.trains && !isSweep && (
          <TextField
            label={t('newJob.promoteAs')}
            help={t('newJob.promoteAsHelp')}
            error={errors.promote_as}
            value={plan.promoteAs}
            onChange={(event) => onChange({ promoteAs: event.target.value })}
          />
        )}
      </div>
      {method.trains && !isSweep && plan.promoteAs.trim() !== '' && (
        <ChoiceCard
          kind="checkbox"
          label={t('newJob.makeCurrent')}
          note={t('newJob.makeCurrentNote')}
          checked={plan.makeCurrent}
          onChange={(event) => onChange({ makeCurrent: event.target.checked })}
        />
      )}
      {open.length > 0 && (
        <details className={styles.section} open={plan.after.length > 0 || undefined}>
          <summary>
            {t('newJob.after')}{' '}
            <span className="muted small">
              {plan.after.length > 0 ? t('newJob.afterCount', { n: plan.after.length }) : t('newJob.afterNone')}
            </span>
          </summary>
          <ChoiceGroup legend={t('newJob.afterHelp')} error={errors.after}>
            {open.map((job) => (
              <ChoiceCard
                key={job.id}
                kind="checkbox"
                label={`#${job.number} ${job.title}`}
                note={t(`status.${job.status}`)}
                checked={plan.after.includes(job.id)}
                onChange={(event) =>
                  onChange({
                    after: event.target.checked ? [...plan.after, job.id] : plan.after.filter((id) => id !== job.id),
                  })
                }
              />
            ))}
          </ChoiceGroup>
        </details>
      )}
    </Card>
  )
}

function Named({ plan, errors, onChange }: Pick<StartProps, 'plan' | 'errors' | 'onChange'>) {
  return (
    <>
      <TextField
        label={t('newJob.name')}
        error={errors.title}
        maxLength={200}
        value={plan.title}
        onChange={(event) => onChange({ title: event.target.value })}
      />
      <TextField
        label={t('newJob.priority')}
        help={t('newJob.priorityHelp')}
        error={errors.priority}
        inputMode="numeric"
        placeholder="0"
        value={plan.priority}
        onChange={(event) => onChange({ priority: event.target.value })}
      />
    </>
  )
}

/* ---- A clone */

type CloneProps = {
  slug: string
  source: JobDetail
  method: Method
  checkpoint: string
  plan: Plan
  errors: Errors
  onCheckpoint: (id: string) => void
  onPlan: (part: Partial<Plan>) => void
}

export function CloneInputs({ slug, source, method, checkpoint, plan, errors, onCheckpoint, onPlan }: CloneProps) {
  const kept = source.checkpoints.filter((entry) => entry.kept)
  return (
    <Card title={t('newJob.inputs')} note={t('newJob.cloneNote')}>
      <Facts
        items={[
          [
            t('newJob.cloneOf'),
            <Link key="of" href={`/r/${slug}/jobs/${source.id}`}>
              #{source.number} {source.title}
            </Link>,
          ],
          [t('newJob.method'), method.title],
          [t('newJob.snapshot'), source.snapshot ? t('snapshot.title', { number: source.snapshot.number }) : '–'],
          [t('newJob.model'), source.model?.name ?? '–'],
        ]}
      />
      <div className={styles.inputs}>
        {kept.length > 0 && (
          <SelectField
            label={t('newJob.checkpoint')}
            help={t('newJob.checkpointHelp')}
            error={errors.checkpoint}
            value={checkpoint}
            onChange={(event) => onCheckpoint(event.target.value)}
            options={[
              ['', t('newJob.fromStart')],
              ...kept.map((entry): [string, string] => [
                entry.id,
                t('promote.step', { step: entry.step, attempt: entry.attempt }),
              ]),
            ]}
          />
        )}
        <Named plan={plan} errors={errors} onChange={onPlan} />
      </div>
    </Card>
  )
}

/* ---- A grid */

type SweepProps = {
  method: Method
  axes: Axis[]
  size: number
  most: number
  errors: Errors
  onChange: (axes: Axis[]) => void
}

const MOST_AXES = 3

export function SweepCard({ method, axes, size, most, errors, onChange }: SweepProps) {
  const fields = [...method.fields_shown, ...method.fields_more].filter(
    (field) => field.type !== 'section' && field.type !== 'texts',
  )
  const at = (index: number, part: Partial<Axis>) =>
    onChange(axes.map((axis, place) => (place === index ? { ...axis, ...part } : axis)))
  return (
    <Card
      title={t('sweep.title')}
      note={axes.length === 0 ? t('sweep.note') : t('sweep.count', { n: size, most })}
      actions={
        axes.length < MOST_AXES && (
          <Button small onClick={() => onChange([...axes, { path: unusedPath(fields, axes), text: '' }])}>
            <Plus size={14} aria-hidden="true" />
            {t('sweep.add')}
          </Button>
        )
      }
    >
      {axes.map((axis, index) => (
        <AxisRow
          // biome-ignore lint/suspicious/noArrayIndexKey: a place in the grid; its setting may change.
          key={index}
          axis={axis}
          fields={fields.filter((field) => field.path === axis.path || !axes.some((one) => one.path === field.path))}
          error={errors[`grid.${axis.path}`] ?? (index === 0 ? errors.grid : undefined)}
          onChange={(part) => at(index, part)}
          onRemove={() => onChange(axes.filter((_, place) => place !== index))}
        />
      ))}
      {size > most && <Notice tone="error">{t('sweep.tooMany', { n: size, most })}</Notice>}
    </Card>
  )
}

const FIRST = 'optim.learning_rate'
const unusedPath = (fields: Field[], axes: Axis[]): string => {
  const free = fields.filter((field) => !axes.some((axis) => axis.path === field.path))
  return (free.find((field) => field.path === FIRST) ?? free[0])?.path ?? ''
}

type AxisProps = {
  axis: Axis
  fields: Field[]
  error: string | undefined
  onChange: (part: Partial<Axis>) => void
  onRemove: () => void
}

function AxisRow({ axis, fields, error, onChange, onRemove }: AxisProps) {
  const field = fields.find((one) => one.path === axis.path)
  const bad = field && axisValues(field, axis.text).find((value) => typeof value === 'string')
  const isNumber = field?.type === 'number' || field?.type === 'integer'
  const said = error ?? (field && isNumber && bad !== undefined ? faultText(field, 'number') : undefined)
  const allowed = field && (field.type === 'choice' ? field.choices.join(', ') : rangeText(field))
  return (
    <div className={styles.axis}>
      <SelectField
        label={t('sweep.setting')}
        value={axis.path}
        onChange={(event) => onChange({ path: event.target.value })}
        options={fields.map((one): [string, string] => [one.path, `${one.label} (${one.path})`])}
      />
      <TextField
        label={t('sweep.values')}
        help={[t('sweep.valuesHelp'), allowed].filter(Boolean).join(' · ')}
        error={said}
        value={axis.text}
        onChange={(event) => onChange({ text: event.target.value })}
      />
      <Button look="quiet" icon aria-label={t('sweep.remove', { name: field?.label ?? axis.path })} onClick={onRemove}>
        <X size={16} aria-hidden="true" />
      </Button>
    </div>
  )
}
