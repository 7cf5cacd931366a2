/** One model: its card as people keep it, how it was trained and measured, and where it stands in the lineage. */
import { useQuery } from '@tanstack/react-query'
import { Archive, ArchiveRestore, Download, Pencil, ShieldCheck, Star, StarOff } from 'lucide-react'
import { type ReactNode, useState } from 'react'
import { useMembership } from 'src/api/membership'
import { type ArchiveKind, cardQuery, changeModel, modelDownload, verifyModel } from 'src/api/modelsApi'
import { sessionQuery } from 'src/api/queries'
import type { DownloadsEnum, ModelCard } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { flatten, shown } from 'src/training/config'
import { figuresOf, parted } from 'src/training/figures'
import { LicenceField } from 'src/training/LicenceField'
import { ModelLineage } from 'src/training/ModelLineage'
import styles from 'src/training/Models.module.css'
import { OfCeiling } from 'src/training/OfCeiling'
import { alarmTitle } from 'src/ui/alarms'
import { Markdown } from 'src/ui/content/Markdown'
import { bytes, count, DASH, duration, exactTime, interval, measured } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { methodName } from 'src/ui/methods'
import { Badge, CopyBox, CopyButton, Stat, Time } from 'src/ui/widgets/Bits'
import { Button, DownloadLink, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField, TextArea } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { Card, Columns, Facts, Page, Stack } from 'src/ui/widgets/Page'
import { JobLink } from 'src/ui/widgets/Reach'
import { ErrorPanel, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { readTags, TagsField } from 'src/ui/widgets/TagsField'
import { Link, useParams } from 'wouter'

export default function ModelPage() {
  const { slug = '', id = '' } = useParams<{ slug: string; id: string }>()
  const card = useQuery(cardQuery(slug, id))
  const model = card.data
  const title = model?.name ?? t('nav.models')
  return (
    <Page
      title={title}
      heading={
        <span className={styles.heading}>
          {title}
          {model?.is_current && <Badge tone="ok">{t('models.current')}</Badge>}
          {model?.archived_at && <Badge>{t('models.archived')}</Badge>}
        </span>
      }
      above={
        <>
          <Link href={`/r/${slug}/policies${model?.kind === 'reward' ? '?kind=reward' : ''}`}>{t('nav.models')}</Link>
          {model && ` · ${t(`model.kind.${model.kind}`)}`}
        </>
      }
      actions={model && <Actions slug={slug} model={model} />}
    >
      <Loaded query={card} what={t('model.failed')} skeleton={<SkeletonBoxes boxes={4} height={220} />}>
        {(found) => <Body slug={slug} model={found} />}
      </Loaded>
    </Page>
  )
}

/** Whether the signed-in person may change the card: of the site's models only operators may. */
function useMayChange(slug: string, model: ModelCard): boolean {
  const { canManage } = useMembership(slug)
  const operator = useQuery(sessionQuery()).data?.user?.is_operator ?? false
  return canManage && (operator || !model.is_site)
}

function Actions({ slug, model }: { slug: string; model: ModelCard }) {
  const { canManage } = useMembership(slug)
  const mayChange = useMayChange(slug, model)
  const change = useWrite(slug, (body: { archived?: boolean; current?: boolean }) => changeModel(slug, model.id, body))
  const archived = model.archived_at !== null
  return (
    <>
      {mayChange && !model.is_site && !archived && (
        <Button busy={change.isPending} onClick={() => change.mutate({ current: !model.is_current })}>
          {model.is_current ? <StarOff size={16} aria-hidden="true" /> : <Star size={16} aria-hidden="true" />}
          {t(model.is_current ? 'model.notCurrent' : 'model.makeCurrent')}
        </Button>
      )}
      {mayChange && !model.is_current && (
        <Button busy={change.isPending} onClick={() => change.mutate({ archived: !archived })}>
          {archived ? <ArchiveRestore size={16} aria-hidden="true" /> : <Archive size={16} aria-hidden="true" />}
          {t(archived ? 'model.unarchive' : 'model.archive')}
        </Button>
      )}
      {canManage && model.kind === 'policy' && !archived && (
        <LinkButton look="primary" href={`/r/${slug}/rounds?new=1&policy=${model.id}`}>
          {t('overview.sample')}
        </LinkButton>
      )}
      {change.isError && <ErrorPanel what={t('model.actionFailed')} error={change.error} />}
    </>
  )
}

function Body({ slug, model }: { slug: string; model: ModelCard }) {
  return (
    <>
      {model.is_current && <Notice tone="ok">{t(`model.currentText.${model.kind}`)}</Notice>}
      {model.archived_at && <Notice>{t('model.archivedText', { when: exactTime(model.archived_at) })}</Notice>}
      {model.is_site && <Notice>{t('model.siteText')}</Notice>}
      {model.files.length === 0 && <Notice tone="warn">{t('model.gone')}</Notice>}
      <Columns width={420}>
        <Stack>
          <About slug={slug} model={model} />
          <FactsCard slug={slug} model={model} />
        </Stack>
        <Stack>
          <FiguresCard model={model} />
          <TrainingCard slug={slug} model={model} />
        </Stack>
      </Columns>
      <ModelLineage slug={slug} model={model} />
      {model.files.length > 0 && (
        <Columns width={420}>
          <DownloadCard slug={slug} model={model} />
          <Files files={model.files} />
        </Columns>
      )}
    </>
  )
}

/* ---- What people say of it */

function About({ slug, model }: { slug: string; model: ModelCard }) {
  const mayChange = useMayChange(slug, model)
  const [editing, setEditing] = useState(false)
  return (
    <Card
      title={t('model.about')}
      actions={
        mayChange && (
          <Button small onClick={() => setEditing(true)}>
            <Pencil size={15} aria-hidden="true" />
            {t('model.edit')}
          </Button>
        )
      }
    >
      <Facts
        items={[
          [t('models.licence'), model.licence || DASH],
          [
            t('model.tags'),
            model.tags.length === 0 ? (
              DASH
            ) : (
              <span key="tags" className={styles.tags}>
                {model.tags.map((tag) => (
                  <Badge key={tag}>{tag}</Badge>
                ))}
              </span>
            ),
          ],
        ]}
      />
      {model.notes.trim() ? (
        <Markdown text={model.notes} prefix="notes-" />
      ) : (
        <p className="muted">{t('model.noNotes')}</p>
      )}
      {editing && <EditDialog slug={slug} model={model} onClose={() => setEditing(false)} />}
    </Card>
  )
}

function EditDialog({ slug, model, onClose }: { slug: string; model: ModelCard; onClose: () => void }) {
  const [licence, setLicence] = useState(model.licence)
  const [tags, setTags] = useState(model.tags.join(', '))
  const [notes, setNotes] = useState(model.notes)
  const save = useWrite(
    slug,
    () => changeModel(slug, model.id, { licence: licence.trim(), tags: readTags(tags), notes }),
    onClose,
  )
  return (
    <FormDialog
      title={t('model.editTitle', { name: model.name })}
      width={680}
      submit={t('action.save')}
      busy={save.isPending}
      error={save.error}
      failed={t('model.actionFailed')}
      onSubmit={() => save.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <LicenceField value={licence} error={errors.licence} onChange={setLicence} />
          <TagsField
            label={t('model.tags')}
            help={t('model.tagsHelp')}
            error={errors.tags}
            value={tags}
            onChange={setTags}
          />
          <TextArea
            label={t('model.notes')}
            help={t('model.notesHelp')}
            rows={10}
            error={errors.notes}
            value={notes}
            onChange={(event) => setNotes(event.target.value)}
          />
        </>
      )}
    </FormDialog>
  )
}

/* ---- What it is */

function FactsCard({ slug, model }: { slug: string; model: ModelCard }) {
  const mayChange = useMembership(slug).canManage
  const verify = useWrite(slug, () => verifyModel(slug, model.id))
  return (
    <Card
      title={t('model.facts')}
      actions={
        mayChange && (
          <Button small busy={verify.isPending} onClick={() => verify.mutate(undefined)}>
            <ShieldCheck size={15} aria-hidden="true" />
            {t(verify.isPending ? 'model.verifying' : 'model.verify')}
          </Button>
        )
      }
    >
      {verify.isSuccess && (
        <Notice tone="ok" role="status">
          {t('model.verifiedNow')}
        </Notice>
      )}
      {verify.isError && <ErrorPanel what={t('model.verifyFailed')} error={verify.error} />}
      <Facts
        items={[
          [
            t('model.base'),
            model.base ? (
              <Link key="base" href={`/r/${slug}/policies/${model.base.id}`}>
                {model.base.name}
              </Link>
            ) : (
              DASH
            ),
          ],
          [t('model.from'), t(`models.source.${model.source}`)],
          [t('model.parameters'), model.parameters === null ? DASH : count(model.parameters)],
          [t('model.size'), bytes(model.size_bytes)],
          [
            t('model.registered'),
            <span key="registered">
              <Time at={model.created_at} />
              {model.created_by && ` ${t('model.by', { who: model.created_by })}`}
            </span>,
          ],
          [
            t('model.verified'),
            model.verified_at ? (
              <Time key="verified" at={model.verified_at} />
            ) : (
              <span key="verified" className="muted">
                {t('model.neverVerified')}
              </span>
            ),
          ],
          [
            'sha256',
            <span key="hash" className={styles.hash}>
              {model.sha256}
            </span>,
          ],
        ]}
      />
      <div>
        <CopyButton text={model.sha256} label="sha256" />
      </div>
    </Card>
  )
}

/* ---- How it was made and measured */

function FiguresCard({ model }: { model: ModelCard }) {
  const figures = figuresOf(model.metrics)
  const { main, rest } = parted(figures)
  return (
    <Card title={t('model.figures')} note={figures.length > 0 && t('model.figuresNote')}>
      {figures.length === 0 ? (
        <p className="muted">{t('model.noFigures')}</p>
      ) : (
        <div className={styles.figures}>
          {main.map(({ name, value, low, high }) => (
            <Stat
              key={name}
              label={name}
              value={measured(value)}
              note={
                <>
                  {low !== null && high !== null && interval(measured(low), measured(high))}
                  <OfCeiling name={name} value={value} of={model.ceiling} />
                </>
              }
            />
          ))}
        </div>
      )}
      {rest.length > 0 && (
        <details>
          <summary className={styles.summary}>{t('model.moreFigures', { n: rest.length })}</summary>
          <Facts
            items={rest.map(({ name, value, low, high }) => [
              name,
              <span key={name} className="tabular">
                {measured(value)}
                {low !== null && high !== null && (
                  <span className="muted">
                    {' '}
                    [{measured(low)}, {measured(high)}]
                  </span>
                )}
              </span>,
            ])}
          />
        </details>
      )}
    </Card>
  )
}

function TrainingCard({ slug, model }: { slug: string; model: ModelCard }) {
  const { training } = model
  if (!training) {
    return (
      <Card title={t('model.training')}>
        <p className="muted">{t('model.noTraining')}</p>
      </Card>
    )
  }
  const { job, checkpoint, snapshot, started_at, ended_at } = training
  const config = flatten(training.config)
  return (
    <>
      <Card title={t('model.training')}>
        <Facts
          items={[
            [
              t('model.job'),
              <span key="job">
                <JobLink slug={slug} job={job} /> <span className="muted">{methodName(job.method)}</span>
              </span>,
            ],
            [t('model.step'), t('model.stepOf', { step: checkpoint.step })],
            [
              t('model.data'),
              snapshot ? (
                <span key="data">
                  <Link href={`/r/${slug}/snapshots/${snapshot.id}`}>
                    {t('snapshot.title', { number: snapshot.number })}
                  </Link>{' '}
                  <span className="muted">{t('snapshot.preferences', { n: snapshot.counts.total })}</span>
                </span>
              ) : (
                DASH
              ),
            ],
            [
              t('model.took'),
              <span key="took">
                {ended_at ? duration((Date.parse(ended_at) - Date.parse(started_at)) / 1000) : DASH}{' '}
                <span className="muted">{t('model.attempts', { n: training.attempts })}</span>
              </span>,
            ],
            [
              t('model.code'),
              training.code_version ? (
                <code key="code">{training.code_version}</code>
              ) : (
                <span key="code" className="muted">
                  {t('model.unknownCode')}
                </span>
              ),
            ],
          ]}
        />
        {config.length > 0 && (
          <details>
            <summary className={styles.summary}>
              {t('model.config')} · {t('model.configCount', { n: config.length })}
            </summary>
            <section className={styles.scroll} tabIndex={0} aria-label={t('model.config')}>
              <Facts
                items={config.map(([path, value]): [string, ReactNode] => [
                  path,
                  <code key={path}>{shown(value) || DASH}</code>,
                ])}
              />
            </section>
          </details>
        )}
      </Card>
      <AlarmsCard slug={slug} job={job.id} alarms={training.alarms} />
    </>
  )
}

type CardAlarms = NonNullable<ModelCard['training']>['alarms']

function AlarmsCard({ slug, job, alarms }: { slug: string; job: string; alarms: CardAlarms }) {
  return (
    <Card
      title={t('model.alarms')}
      note={alarms.length > 0 && t('model.alarmsNote')}
      actions={alarms.length > 0 && <Link href={`/r/${slug}/alarms?job=${job}`}>{t('model.allAlarms')}</Link>}
    >
      {alarms.length === 0 ? (
        <p className="muted">{t('model.noAlarms')}</p>
      ) : (
        <ul className={styles.alarms}>
          {alarms.map((alarm) => (
            <li key={`${alarm.name}-${alarm.step}`}>
              <span className={styles.heading}>
                <strong>{alarmTitle(alarm.name)}</strong>
                <Badge tone={alarm.acknowledged_at ? 'plain' : 'warn'}>
                  {t(alarm.acknowledged_at ? 'alarm.state.acknowledged' : 'alarm.state.open')}
                </Badge>
                {alarm.step !== null && <span className="muted small">{t('alarm.atStep', { step: alarm.step })}</span>}
              </span>
              {alarm.evidence.map((reason) =>
                typeof reason.text === 'string' ? (
                  <span key={reason.text} className="small">
                    {reason.text}
                  </span>
                ) : null,
              )}
              {alarm.note && <span className="muted small">{alarm.note}</span>}
            </li>
          ))}
        </ul>
      )}
    </Card>
  )
}

/* ---- Its files */

function DownloadCard({ slug, model }: { slug: string; model: ModelCard }) {
  const [form, setForm] = useState<DownloadsEnum>(model.downloads[0] ?? 'merged')
  const [as, setAs] = useState<ArchiveKind>('zip')
  const path = modelDownload(slug, model.id, form, as)
  return (
    <Card title={t('model.download')} note={t('model.downloadNote')}>
      <div className={styles.controls}>
        <SelectField
          label={t('model.downloadForm')}
          value={form}
          onChange={(event) => setForm(event.target.value === 'adapter' ? 'adapter' : 'merged')}
          options={model.downloads.map((name): [string, string] => [name, t(`model.form.${name}`)])}
        />
        <SelectField
          label={t('model.downloadAs')}
          value={as}
          onChange={(event) => setAs(event.target.value === 'tar' ? 'tar' : 'zip')}
          options={[
            ['zip', t('model.as.zip')],
            ['tar', t('model.as.tar')],
          ]}
        />
        <DownloadLink href={path} look="primary">
          <Download size={16} aria-hidden="true" />
          {t('model.takeAway')}
        </DownloadLink>
      </div>
      <CopyBox
        label={t('model.curl')}
        text={`curl -H "Authorization: Bearer $WINNOW_TOKEN" \\\n  "${window.location.origin}${path}" -o model.${as}`}
      />
    </Card>
  )
}

type ModelFile = ModelCard['files'][number]

const fileColumns = (): Column<ModelFile>[] => [
  { name: 'name', header: t('model.file'), cell: (file) => <code>{file.name}</code> },
  { name: 'size', header: t('model.size'), align: 'end', cell: (file) => bytes(file.size_bytes) },
]

function Files({ files }: { files: ModelFile[] }) {
  const total = files.reduce((sum, file) => sum + file.size_bytes, 0)
  return (
    <Card flush title={t('model.files')} note={t('model.filesTotal', { n: files.length, size: bytes(total) })}>
      <DataTable caption={t('model.files')} columns={fileColumns()} rows={files} rowKey={(file) => file.name} />
    </Card>
  )
}
