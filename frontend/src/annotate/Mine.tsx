/** One's own part in a project: how it goes, and the last votes, to take back until they are frozen. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { ListChecks, MessageSquare } from 'lucide-react'
import { Disagree } from 'src/annotate/Disagree'
import { conversationsQuery, feedbackQuery, ownVotesQuery, readFeedback } from 'src/api/annotator'
import { keys, retractVote, sessionQuery } from 'src/api/queries'
import type { FeedbackList, OwnVoteList } from 'src/api/schema'
import { choiceText, rankingText } from 'src/ui/answer/answer'
import { promptLine } from 'src/ui/content/Conversation'
import { Markdown } from 'src/ui/content/Markdown'
import { duration, estimateText } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Card, Facts, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

type OwnVote = OwnVoteList['items'][number]

/** An answer in a few words, without the form it was given with. */
function inWords({ choice, scale, ranking }: OwnVote['answer']): string {
  if (choice) return choiceText(choice)
  if (ranking) return rankingText(ranking)
  return scale ? t('me.scale', { point: scale }) : t('answer.rated')
}

export default function Mine() {
  const { slug = '' } = useParams<{ slug: string }>()
  const name = useQuery(sessionQuery()).data?.user?.projects.find((one) => one.slug === slug)?.name ?? slug
  const chats = useQuery(conversationsQuery(slug)).data?.enabled
  return (
    <Page
      title={t('me.title')}
      above={name}
      narrow
      actions={
        <>
          {chats && <LinkButton href={`/p/${slug}/chat`}>{t('chat.title')}</LinkButton>}
          <LinkButton look="primary" href={`/p/${slug}/task`}>
            {t('me.work')}
          </LinkButton>
        </>
      }
    >
      <Feedback slug={slug} />
      <Votes slug={slug} />
    </Page>
  )
}

type Told = FeedbackList['items'][number]

/** What a person is told of their work: checks that are behind them, and how even they judge. */
function Feedback({ slug }: { slug: string }) {
  const feedback = useQuery(feedbackQuery(slug))
  return (
    <Card title={t('me.feedback')} note={t('me.feedbackNote')}>
      <Loaded query={feedback} what={t('me.feedbackFailed')}>
        {(items) =>
          items.length === 0 ? (
            <Empty icon={MessageSquare} title={t('me.noFeedback')}>
              {t('me.noFeedbackText')}
            </Empty>
          ) : (
            items.map((item) => <One key={item.id} slug={slug} told={item} />)
          )
        }
      </Loaded>
    </Card>
  )
}

function One({ slug, told }: { slug: string; told: Told }) {
  const client = useQueryClient()
  const read = useMutation({
    mutationFn: () => readFeedback(slug, told.id),
    onSuccess: () => client.invalidateQueries({ queryKey: keys.work }),
  })
  const figure = (value: Told['gold']) => {
    const { value: shown, range } = estimateText(value, 'percent')
    return value.value === null ? '–' : `${shown} ${range ?? ''} · n ${value.n}`
  }
  return (
    <details
      open={told.read_at === null}
      onToggle={(event) => {
        if (event.currentTarget.open && told.read_at === null && read.isIdle) read.mutate()
      }}
    >
      <summary>
        <strong>{t('me.after', { n: told.votes })}</strong> <Time at={told.created_at} />
      </summary>
      <Facts
        items={[
          [t('me.gold'), figure(told.gold)],
          [t('me.consistency'), figure(told.consistency)],
          [t('people.median'), told.median_seconds === null ? '–' : duration(told.median_seconds)],
        ]}
      />
      {told.items.map((item, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: what was told never changes.
        <Notice key={index} tone={item.is_right ? 'ok' : 'warn'}>
          <strong>{promptLine(item.prompt, 100)}</strong>
          <div>
            {t('training.yours', { answer: inWords(item.yours) })}{' '}
            {t('training.answer', {
              answer: item.right.worst ? t('training.worst', { letter: item.right.worst }) : inWords(item.right),
            })}
          </div>
          {item.text && <Markdown text={item.text} prefix={`${told.id}-${index}-`} />}
          {(item.objection !== null || !item.is_right) && (
            <Disagree slug={slug} vote={item.vote} said={item.objection} />
          )}
        </Notice>
      ))}
    </details>
  )
}

function Votes({ slug }: { slug: string }) {
  const client = useQueryClient()
  const votes = useQuery(ownVotesQuery(slug))
  const retract = useMutation({
    mutationFn: retractVote,
    onSuccess: () => client.invalidateQueries({ queryKey: keys.work }),
  })
  const columns: Column<OwnVote>[] = [
    { name: 'prompt', header: t('comparisons.prompt'), wrap: true, cell: (row) => row.prompt },
    { name: 'answer', header: t('me.answer'), cell: (row) => inWords(row.answer) },
    { name: 'at', header: t('tokens.created'), cell: (row) => <Time at={row.created_at} /> },
    {
      name: 'back',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) =>
        row.can_retract && (
          <Button
            small
            busy={retract.isPending && retract.variables === row.vote}
            onClick={() => retract.mutate(row.vote)}
          >
            {t('me.takeBack')}
          </Button>
        ),
    },
  ]
  return (
    <>
      {retract.isSuccess && (
        <Notice tone="ok" role="status">
          {t('me.takenBack')}
        </Notice>
      )}
      {retract.isError && <ErrorPanel what={t('error.action')} error={retract.error} />}
      <ListCard
        title={t('me.votes')}
        showTitle
        query={votes}
        failed={t('me.votesFailed')}
        columns={columns}
        rowKey={(row) => row.vote}
        empty={{ icon: ListChecks, title: t('me.none'), text: t('me.noneText') }}
      />
    </>
  )
}
