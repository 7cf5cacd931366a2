/** One's own part in a project: how it goes, and the last votes, to take back until they are frozen. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { ListChecks } from 'lucide-react'
import { ownVotesQuery } from 'src/api/annotator'
import { keys, retractVote, sessionQuery } from 'src/api/queries'
import type { OwnVoteList } from 'src/api/schema'
import { choiceText, rankingText } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'
import { Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Page } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'
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
  return (
    <Page
      title={t('me.title')}
      above={name}
      narrow
      actions={
        <LinkButton look="primary" href={`/p/${slug}/task`}>
          {t('me.work')}
        </LinkButton>
      }
    >
      <Votes slug={slug} />
    </Page>
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
