/** Where the project's events go, and how each delivery went. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Plus, Send, Webhook as WebhookIcon } from 'lucide-react'
import { useState } from 'react'
import type { Delivery, NewWebhook, Webhook, WebhookCreateRequest } from 'src/api/schema'
import {
  createWebhook,
  deliveriesQuery,
  pauseWebhook,
  pingWebhook,
  removeWebhook,
  repeatDelivery,
  resumeWebhook,
  webhooksQuery,
} from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import { t } from 'src/ui/i18n/t'
import { Badge, CopyBox, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Menu } from 'src/ui/widgets/Menu'
import { Page } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

type Event = WebhookCreateRequest['events'][number]
const EVENTS: Event[] = [
  'comparison.settled',
  'comparison.disputed',
  'comparison.adjudicated',
  'import.finished',
  'snapshot.frozen',
  'job.finished',
]

export default function Webhooks() {
  const { slug = '' } = useParams<{ slug: string }>()
  const list = useInfiniteQuery(webhooksQuery(slug))
  const [creating, setCreating] = useState(false)
  const [created, setCreated] = useState<NewWebhook | null>(null)
  const [shown, setShown] = useState<Webhook | null>(null)
  const act = useWrite(slug, (work: () => Promise<unknown>) => work())
  const columns: Column<Webhook>[] = [
    { name: 'url', header: t('webhooks.url'), wrap: true, cell: (row) => <code>{row.url}</code> },
    { name: 'events', header: t('webhooks.events'), wrap: true, cell: (row) => row.events.join(', ') },
    {
      name: 'state',
      header: t('comparisons.state'),
      cell: (row) => (
        <span title={row.pause_reason}>
          {row.paused_at ? (
            <Badge tone="warn">{t('webhooks.paused')}</Badge>
          ) : (
            <Badge tone="ok">{t('webhooks.on')}</Badge>
          )}
        </span>
      ),
    },
    {
      name: 'due',
      header: t('webhooks.due'),
      align: 'end',
      cell: (row) => t('webhooks.dueCount', { due: row.due, waiting: row.waiting }),
    },
    {
      name: 'more',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) => (
        <Menu
          label={t('action.menu', { what: row.url })}
          button={t('action.actions')}
          items={[
            { kind: 'action', label: t('webhooks.deliveries'), run: () => setShown(row) },
            { kind: 'action', label: t('webhooks.ping'), run: () => act.mutate(() => pingWebhook(slug, row.id)) },
            row.paused_at
              ? {
                  kind: 'action',
                  label: t('webhooks.resume'),
                  run: () => act.mutate(() => resumeWebhook(slug, row.id, true)),
                }
              : { kind: 'action', label: t('webhooks.pause'), run: () => act.mutate(() => pauseWebhook(slug, row.id)) },
            { kind: 'separator' },
            { kind: 'action', label: t('webhooks.remove'), run: () => act.mutate(() => removeWebhook(slug, row.id)) },
          ]}
        />
      ),
    },
  ]
  const add = (
    <Button look="primary" onClick={() => setCreating(true)}>
      <Plus size={16} aria-hidden="true" />
      {t('webhooks.new')}
    </Button>
  )
  return (
    <Page title={t('nav.webhooks')} intro={t('webhooks.intro')} actions={add}>
      {act.isError && <ErrorPanel what={t('error.action')} error={act.error} />}
      <ListCard
        title={t('nav.webhooks')}
        query={list}
        failed={t('webhooks.failed')}
        columns={columns}
        rowKey={(row) => row.id}
        empty={{ icon: WebhookIcon, title: t('webhooks.none'), text: t('webhooks.noneText') }}
      />
      {creating && (
        <CreateDialog
          slug={slug}
          onClose={() => setCreating(false)}
          onCreated={(hook) => {
            setCreating(false)
            setCreated(hook)
          }}
        />
      )}
      {created && (
        <Dialog
          title={t('webhooks.created')}
          onClose={() => setCreated(null)}
          dismissable={false}
          footer={
            <Button look="primary" onClick={() => setCreated(null)}>
              {t('tokens.stored')}
            </Button>
          }
        >
          <Notice tone="warn">{t('tokens.once')}</Notice>
          <CopyBox text={created.secret} label={t('webhooks.secret')} wrap />
          <p className="muted small">{t('webhooks.secretNote')}</p>
        </Dialog>
      )}
      {shown && <Deliveries slug={slug} hook={shown} onClose={() => setShown(null)} />}
    </Page>
  )
}

type CreateProps = { slug: string; onClose: () => void; onCreated: (hook: NewWebhook) => void }

function CreateDialog({ slug, onClose, onCreated }: CreateProps) {
  const [url, setUrl] = useState('')
  const [events, setEvents] = useState<Event[]>(EVENTS)
  const create = useWrite(slug, () => createWebhook(slug, { url: url.trim(), events }), onCreated)
  return (
    <FormDialog
      title={t('webhooks.new')}
      submit={t('webhooks.create')}
      busy={create.isPending}
      error={create.error}
      failed={t('webhooks.createFailed')}
      onSubmit={() => create.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <TextField
            label={t('webhooks.url')}
            help={t('webhooks.urlHelp')}
            type="url"
            error={errors.url}
            value={url}
            onChange={(event) => setUrl(event.target.value)}
          />
          <ChoiceGroup legend={t('webhooks.events')} error={errors.events}>
            {EVENTS.map((name) => (
              <ChoiceCard
                key={name}
                kind="checkbox"
                label={<code>{name}</code>}
                checked={events.includes(name)}
                onChange={(event) =>
                  setEvents(event.target.checked ? [...events, name] : events.filter((other) => other !== name))
                }
              />
            ))}
          </ChoiceGroup>
        </>
      )}
    </FormDialog>
  )
}

function Deliveries({ slug, hook, onClose }: { slug: string; hook: Webhook; onClose: () => void }) {
  const list = useInfiniteQuery(deliveriesQuery(slug, hook.id))
  const repeat = useWrite(slug, (id: string) => repeatDelivery(slug, id))
  const columns: Column<Delivery>[] = [
    { name: 'event', header: t('webhooks.event'), cell: (row) => <code>{row.event}</code> },
    { name: 'at', header: t('tokens.created'), cell: (row) => <Time at={row.created_at} /> },
    { name: 'tries', header: t('webhooks.tries'), align: 'end', cell: (row) => row.tries },
    {
      name: 'state',
      header: t('comparisons.state'),
      wrap: true,
      cell: (row) =>
        row.delivered_at ? (
          <Badge tone="ok">{t('webhooks.delivered', { status: row.status ?? '' })}</Badge>
        ) : (
          <>
            <Badge tone={row.next_at ? 'live' : 'error'}>
              {row.next_at ? t('webhooks.onItsWay') : t('webhooks.notSent')}
            </Badge>{' '}
            {row.error}
          </>
        ),
    },
    {
      name: 'again',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) => (
        <Button small busy={repeat.isPending && repeat.variables === row.id} onClick={() => repeat.mutate(row.id)}>
          {t('webhooks.again')}
        </Button>
      ),
    },
  ]
  return (
    <Dialog title={t('webhooks.deliveriesOf', { url: hook.url })} onClose={onClose} width={860}>
      {repeat.isError && <ErrorPanel what={t('error.action')} error={repeat.error} />}
      <ListCard
        title={t('webhooks.deliveries')}
        query={list}
        failed={t('webhooks.failed')}
        columns={columns}
        rowKey={(row) => row.id}
        empty={{ icon: Send, title: t('webhooks.noDeliveries'), text: t('webhooks.noDeliveriesText') }}
      />
    </Dialog>
  )
}
