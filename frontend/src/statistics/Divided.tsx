/** The comparisons whose outcome is least clear: texts and votes side by side, and the way to a ruling. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Gavel, Scale } from 'lucide-react'
import { useState } from 'react'
import { sendToAdjudication } from 'src/api/adjudication'
import { useMembership } from 'src/api/membership'
import { projectQuery } from 'src/api/queries'
import type { DividedComparison, ReasonChip } from 'src/api/schema'
import { type DividedBy, dividedQuery, dividedSource } from 'src/api/statistics'
import { useWrite } from 'src/api/useWrite'
import { Foot } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { useChoice } from 'src/statistics/useChoice'
import { labelOf } from 'src/ui/answer/fields'
import { Conversation } from 'src/ui/content/Conversation'
import { Markdown } from 'src/ui/content/Markdown'
import { DASH, duration, percent } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Badge } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField, TextArea } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { Card, Page, Row, Stack } from 'src/ui/widgets/Page'
import { Empty, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

const ORDERS = ['confidence', 'division'] as const satisfies DividedBy[]

export default function Divided() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [by, setBy] = useChoice('by', ORDERS)
  const source = dividedSource(slug, by)
  const list = useInfiniteQuery(dividedQuery(source))
  const chips = useQuery(projectQuery(slug)).data?.form.reasons ?? []
  const [chosen, setChosen] = useState<readonly string[]>([])
  const [sending, setSending] = useState(false)
  const [sent, setSent] = useState<number | null>(null)
  const choose = (id: string, on: boolean) => setChosen(on ? [...chosen, id] : chosen.filter((one) => one !== id))
  return (
    <Page
      title={t('nav.worst')}
      intro={canManage ? `${t('divided.intro')} ${t('divided.introChoose')}` : t('divided.intro')}
      actions={
        canManage && (
          <Button look="primary" disabled={chosen.length === 0} onClick={() => setSending(true)}>
            <Gavel size={16} aria-hidden="true" />
            {chosen.length === 0 ? t('send.title') : t('divided.send', { n: chosen.length })}
          </Button>
        )
      }
    >
      {sent !== null && (
        <Notice
          tone="ok"
          role="status"
          action={
            <LinkButton small href={`/r/${slug}/adjudicate`}>
              {t('nav.adjudicate')}
            </LinkButton>
          }
        >
          {t('send.sent', { n: sent })}
        </Notice>
      )}
      <div className={styles.filters}>
        <SelectField
          label={t('divided.by')}
          value={by}
          onChange={(event) => setBy(event.target.value)}
          options={ORDERS.map((name) => [name, t(`divided.by.${name}`)])}
        />
      </div>
      <Loaded query={list} what={t('statistics.failed')} skeleton={<SkeletonBoxes boxes={3} height={260} />}>
        {({ rows, definition }) =>
          rows.length === 0 ? (
            <Card>
              <Empty icon={Scale} title={t('divided.none')}>
                {t('divided.noneText')}
              </Empty>
            </Card>
          ) : (
            <Stack>
              {rows.map((row) => (
                <One
                  key={row.id}
                  comparison={row}
                  chips={chips}
                  chosen={chosen.includes(row.id)}
                  onChoose={canManage ? (on) => choose(row.id, on) : undefined}
                />
              ))}
              {list.hasNextPage && (
                <Row>
                  <Button busy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
                    {t('action.more')}
                  </Button>
                </Row>
              )}
              <Foot title={t('nav.worst')} source={source} definition={definition} />
            </Stack>
          )
        }
      </Loaded>
      {sending && (
        <SendDialog
          slug={slug}
          ids={chosen}
          onClose={() => setSending(false)}
          onSent={(n) => {
            setSending(false)
            setChosen([])
            setSent(n)
          }}
        />
      )}
    </Page>
  )
}

type Ballot = DividedComparison['ballots'][number]
const CHOICES: Record<string, Key> = { a: 'class.a', tie: 'class.tie', b: 'class.b' }

function ballotText({ choice, both_bad, answer }: Ballot): string {
  if (both_bad) return t('agreementPage.bothBad')
  const key = CHOICES[choice]
  return key ? t(key) : choice || JSON.stringify(answer)
}

const wordColumns = (chips: readonly ReasonChip[]): Column<Ballot>[] => [
  {
    name: 'reasons',
    header: t('words.reasons'),
    wrap: true,
    cell: ({ reasons }) => reasons.map((key) => labelOf(chips, key)).join(', '),
  },
  { name: 'why', header: t('words.why'), wrap: true, cell: ({ rationale }) => rationale },
]

/** Without the columns in which nobody said anything. */
const ballotColumns = (ballots: Ballot[], chips: readonly ReasonChip[]): Column<Ballot>[] => [
  { name: 'who', header: t('behind.annotator'), cell: ({ annotator }) => annotator },
  { name: 'vote', header: t('adjudicate.vote'), cell: ballotText },
  ...(ballots.some(({ reasons, rationale }) => reasons.length > 0 || rationale !== '') ? wordColumns(chips) : []),
  {
    name: 'time',
    header: t('records.time'),
    align: 'end',
    cell: ({ active_ms }) => (active_ms === null ? DASH : duration(active_ms / 1000)),
  },
]

type OneProps = {
  comparison: DividedComparison
  /** The reasons of the form, which votes name by key. */
  chips: readonly ReasonChip[]
  chosen: boolean
  onChoose?: (on: boolean) => void
}

function One({ comparison, chips, chosen, onChoose }: OneProps) {
  const { id, prompt, category, completions, ballots, posterior, top_share, frozen } = comparison
  const measures: [string, string][] = [
    [t('divided.posterior'), posterior === null ? DASH : percent(posterior)],
    [t('divided.topShare'), top_share === null ? DASH : percent(top_share)],
    [t('people.votes'), String(ballots.length)],
  ]
  return (
    <Card
      title={category ? t('divided.titled', { category }) : t('comparisons.one')}
      note={<code>{id}</code>}
      actions={
        <>
          {frozen && <Badge>{t('comparisons.frozen')}</Badge>}
          {onChoose && (
            <label className={styles.check}>
              <input type="checkbox" checked={chosen} onChange={(event) => onChoose(event.target.checked)} />
              {t('divided.choose')}
              <span className="visually-hidden"> {id}</span>
            </label>
          )}
        </>
      }
    >
      <div className={styles.measures}>
        {measures.map(([label, value]) => (
          <span key={label}>
            <span className="muted">{label}</span> {value}
          </span>
        ))}
      </div>
      <section className={styles.scroll} tabIndex={0} aria-label={t('comparisons.prompt')}>
        <Conversation turns={prompt} prefix={`${id}-p`} compact />
      </section>
      <div className={styles.texts}>
        {completions.map(({ label, text, source, finish }) => {
          const name = t('comparisons.completion', { letter: label.toUpperCase() })
          return (
            <div key={label} className={styles.text}>
              <header>
                <strong>{name}</strong>
                <span>
                  {source}
                  {finish === 'length' && ` · ${t('comparisons.cut')}`}
                </span>
              </header>
              <section className={styles.scroll} tabIndex={0} aria-label={name}>
                <Markdown text={text} prefix={`${id}-${label}-`} />
              </section>
            </div>
          )
        })}
      </div>
      <DataTable
        caption={t('people.votes')}
        columns={ballotColumns(ballots, chips)}
        rows={ballots}
        rowKey={({ annotator, created_at }) => annotator + created_at}
      />
    </Card>
  )
}

type SendProps = { slug: string; ids: readonly string[]; onClose: () => void; onSent: (n: number) => void }

function SendDialog({ slug, ids, onClose, onSent }: SendProps) {
  const [reason, setReason] = useState('')
  const send = useWrite(
    slug,
    () => sendToAdjudication(slug, { comparisons: [...ids], reason: reason.trim() }),
    ({ sent }) => onSent(sent),
  )
  return (
    <FormDialog
      title={t('divided.send', { n: ids.length })}
      submit={t('send.submit')}
      busy={send.isPending}
      error={send.error}
      failed={t('error.action')}
      onSubmit={() => send.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <TextArea
          label={t('adjudicate.reason')}
          help={t('adjudicate.reasonHelp')}
          rows={2}
          error={errors.reason}
          value={reason}
          onChange={(event) => setReason(event.target.value)}
        />
      )}
    </FormDialog>
  )
}
