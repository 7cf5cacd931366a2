/** Prompts written by chatting: at each turn two fresh answers are compared, and the better one goes on. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { MessagesSquare } from 'lucide-react'
import { useRef, useState } from 'react'
import styles from 'src/annotate/Chat.module.css'
import { OneTask } from 'src/annotate/OneTask'
import { conversationsQuery, endConversation, retryTurn, say, startConversation, threadQuery } from 'src/api/annotator'
import { uuid } from 'src/api/client'
import type { OwnConversationList, Thread } from 'src/api/schema'
import { focusRow, pointOptions, Rows } from 'src/ui/answer/Rows'
import { Conversation } from 'src/ui/content/Conversation'
import { t } from 'src/ui/i18n/t'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { TextArea } from 'src/ui/widgets/Field'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Card, Page, Row } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'
import { useLocation, useParams } from 'wouter'

const BEST_RATING = 7

export default function Chat() {
  const { slug = '', id } = useParams<{ slug: string; id?: string }>()
  return id ? <ThreadPage key={id} slug={slug} id={id} /> : <Conversations slug={slug} />
}

function Conversations({ slug }: { slug: string }) {
  const list = useQuery(conversationsQuery(slug))
  const [, navigate] = useLocation()
  const [system, setSystem] = useState('')
  const start = useMutation({
    mutationFn: () => startConversation(slug, system),
    onSuccess: ({ id }) => navigate(`/p/${slug}/chat/${id}`),
  })
  type Item = OwnConversationList['items'][number]
  const columns: Column<Item>[] = [
    { name: 'at', header: t('tokens.created'), cell: (row) => <Time at={row.created_at} /> },
    { name: 'turns', header: t('chat.turns'), align: 'end', cell: (row) => row.turns },
    {
      name: 'state',
      header: t('comparisons.state'),
      cell: (row) =>
        row.ended_at ? (
          <Badge>{t('chat.ended', { rating: row.rating ?? '' })}</Badge>
        ) : (
          <Badge tone="live">{t('chat.open')}</Badge>
        ),
    },
    {
      name: 'go',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) => (
        <LinkButton small href={`/p/${slug}/chat/${row.id}`}>
          {row.ended_at ? t('home.open') : t('home.continue')}
        </LinkButton>
      ),
    },
  ]
  return (
    <Page title={t('chat.title')} intro={t('chat.intro')} narrow>
      <Loaded query={list} what={t('chat.failed')}>
        {({ enabled, items }) =>
          enabled ? (
            <>
              <Card title={t('chat.new')}>
                <TextArea
                  label={t('chat.system')}
                  help={t('chat.systemHelp')}
                  rows={2}
                  value={system}
                  onChange={(event) => setSystem(event.target.value)}
                />
                {start.isError && <ErrorPanel what={t('chat.startFailed')} error={start.error} />}
                <Row>
                  <Button look="primary" busy={start.isPending} onClick={() => start.mutate()}>
                    {t('chat.start')}
                  </Button>
                </Row>
              </Card>
              <ListCard
                title={t('chat.own')}
                showTitle
                query={{ ...list, data: items }}
                failed={t('chat.failed')}
                columns={columns}
                rowKey={(row) => row.id}
                empty={{ icon: MessagesSquare, title: t('chat.none'), text: t('chat.noneText') }}
              />
            </>
          ) : (
            <Card>
              <Empty icon={MessagesSquare} title={t('chat.off')}>
                {t('chat.offText')}
              </Empty>
            </Card>
          )
        }
      </Loaded>
    </Page>
  )
}

function ThreadPage({ slug, id }: { slug: string; id: string }) {
  const client = useQueryClient()
  const query = threadQuery(slug, id)
  const thread = useQuery(query)
  const refresh = () => void client.invalidateQueries({ queryKey: query.queryKey })
  if (thread.data?.state === 'ready' && thread.data.task) {
    return (
      <OneTask
        key={thread.data.task.assignment}
        slug={slug}
        task={thread.data.task}
        number={thread.data.turns}
        onVoted={refresh}
        onLeft={refresh}
      />
    )
  }
  return (
    <Page
      title={t('chat.title')}
      above={
        <LinkButton look="quiet" small href={`/p/${slug}/chat`}>
          {t('chat.all')}
        </LinkButton>
      }
      narrow
    >
      <Loaded query={thread} what={t('chat.failed')}>
        {(data) => <Talk slug={slug} thread={data} onChange={(next) => client.setQueryData(query.queryKey, next)} />}
      </Loaded>
    </Page>
  )
}

function Talk({ slug, thread, onChange }: { slug: string; thread: Thread; onChange: (thread: Thread) => void }) {
  const { id, messages, state, turns, max_turns } = thread
  const [text, setText] = useState('')
  const [ending, setEnding] = useState(false)
  const sent = useRef({ text: '', key: '' })
  const send = useMutation({
    mutationFn: () => {
      if (sent.current.text !== text) sent.current = { text, key: uuid() }
      return say(slug, id, text, sent.current.key)
    },
    onSuccess: (next) => {
      setText('')
      sent.current = { text: '', key: '' }
      onChange(next)
    },
  })
  const retry = useMutation({ mutationFn: () => retryTurn(slug, id), onSuccess: onChange })
  const full = turns >= max_turns
  const submit = () => {
    if (text.trim() !== '' && !send.isPending) send.mutate()
  }
  return (
    <>
      <Card title={t('chat.turnOf', { turn: turns, most: max_turns })}>
        {messages.length > 0 ? (
          <Conversation turns={messages} prefix={`${id}-`} />
        ) : (
          <p className="muted">{t('chat.first')}</p>
        )}
        {state === 'waiting' && (
          <Notice role="status">
            {t('chat.waiting')} <Time at={thread.waiting_since} />
          </Notice>
        )}
        {state === 'failed' && (
          <Notice
            tone="warn"
            role="alert"
            action={
              <Button small busy={retry.isPending} onClick={() => retry.mutate()}>
                {t('action.retry')}
              </Button>
            }
          >
            {t('chat.turnFailed')} {thread.error}
          </Notice>
        )}
        {state === 'ended' && <Notice tone="ok">{t('chat.over', { rating: thread.rating ?? '' })}</Notice>}
        {retry.isError && <ErrorPanel what={t('error.action')} error={retry.error} />}
      </Card>
      {state === 'write' && !full && (
        <form
          className={styles.compose}
          onSubmit={(event) => {
            event.preventDefault()
            submit()
          }}
        >
          <TextArea
            label={t('chat.message')}
            help={t('chat.messageHelp')}
            rows={4}
            value={text}
            onChange={(event) => setText(event.target.value)}
            onKeyDown={(event) => {
              if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return
              event.preventDefault()
              submit()
            }}
          />
          <Row>
            <Button look="primary" type="submit" busy={send.isPending} disabled={text.trim() === ''}>
              {t('chat.send')}
            </Button>
          </Row>
          {send.isError && <ErrorPanel what={t('chat.sendFailed')} error={send.error} />}
        </form>
      )}
      {state === 'write' && full && <Notice>{t('chat.full')}</Notice>}
      {state !== 'ended' && turns > 0 && (
        <Row>
          <Button onClick={() => setEnding(true)}>{t('chat.end')}</Button>
        </Row>
      )}
      {ending && (
        <EndDialog
          slug={slug}
          id={id}
          onClose={() => setEnding(false)}
          onEnded={(next) => {
            setEnding(false)
            onChange(next)
          }}
        />
      )}
    </>
  )
}

type EndProps = { slug: string; id: string; onClose: () => void; onEnded: (thread: Thread) => void }

function EndDialog({ slug, id, onClose, onEnded }: EndProps) {
  const [rating, setRating] = useState<string | undefined>(undefined)
  const end = useMutation({ mutationFn: (value: number) => endConversation(slug, id, value), onSuccess: onEnded })
  return (
    <Dialog
      title={t('chat.end')}
      onClose={onClose}
      width={480}
      onSubmit={() => (rating ? end.mutate(Number(rating)) : focusRow(document.querySelector('dialog [data-field]')))}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={end.isPending}>
            {t('chat.endNow')}
          </Button>
        </>
      }
    >
      <Rows
        rows={[
          {
            field: 'rating',
            label: t('chat.rating'),
            options: pointOptions(BEST_RATING),
            value: rating,
            low: t('rating.low'),
            high: t('rating.high'),
          },
        ]}
        onAnswer={(_, value) => setRating(value)}
      />
      {end.isError && <ErrorPanel what={t('error.action')} error={end.error} />}
    </Dialog>
  )
}
