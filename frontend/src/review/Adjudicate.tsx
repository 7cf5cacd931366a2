/** Disputes, one after the other: an answer of one's own first, then the votes without names, then the ruling. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Gavel } from 'lucide-react'
import { disputeQuery, disputesQuery } from 'src/api/adjudication'
import type { Dispute } from 'src/api/schema'
import styles from 'src/review/Adjudicate.module.css'
import { DisputeView } from 'src/review/DisputeView'
import { promptLine } from 'src/ui/content/Conversation'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Badge } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { Filters } from 'src/ui/widgets/Filters'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

const WHY = ['', 'votes', 'sent', 'escalated'] as const

export default function Adjudicate() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, change] = useAddress()
  const why = WHY.find((name) => name === search.get('why')) ?? ''
  const list = useInfiniteQuery(disputesQuery(slug, { why }))
  const open = search.get('open') ?? list.data?.[0]?.id ?? null
  const show = (id: string | null) => change({ open: id ?? '' })
  return (
    <Page title={t('nav.adjudicate')} intro={t('adjudicate.intro')}>
      <div className={styles.split}>
        <Card flush title={t('adjudicate.queue')}>
          <div className={styles.filters}>
            <Filters
              label={t('adjudicate.filter')}
              options={WHY.map((name) => [name, t(`adjudicate.why.${name || 'all'}`)] as const)}
              value={why}
              onChoose={(name) => change({ why: name, open: '' })}
            />
          </div>
          <Loaded query={list} what={t('adjudicate.failed')}>
            {(rows) =>
              rows.length === 0 ? (
                <Empty icon={Gavel} title={t('adjudicate.none')}>
                  {t('adjudicate.noneText')}
                </Empty>
              ) : (
                <ul className={styles.list}>
                  {rows.map((row) => (
                    <Item key={row.id} row={row} open={row.id === open} onOpen={() => show(row.id)} />
                  ))}
                  {list.hasNextPage && (
                    <li>
                      <Button small busy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
                        {t('action.more')}
                      </Button>
                    </li>
                  )}
                </ul>
              )
            }
          </Loaded>
        </Card>
        {open ? (
          <One key={open} slug={slug} id={open} onDone={() => show(null)} />
        ) : (
          <Card>
            <p className="muted">{t('adjudicate.choose')}</p>
          </Card>
        )}
      </div>
    </Page>
  )
}

function Item({ row, open, onOpen }: { row: Dispute; open: boolean; onOpen: () => void }) {
  return (
    <li>
      <button type="button" className={styles.item} aria-current={open || undefined} onClick={onOpen}>
        <span>{promptLine(row.prompt, 80)}</span>
        <span className={styles.facts}>
          {row.why !== 'votes' && <Badge tone="warn">{t(`adjudicate.why.${row.why}`)}</Badge>}
          {row.answered && <Badge tone="ok">{t('adjudicate.answered')}</Badge>}
          <span className="muted small">
            {t('home.votes', { n: row.votes })}
            {row.disagreement !== null &&
              ` · ${t('adjudicate.disagreement', { share: Math.round(row.disagreement * 100) })}`}
          </span>
        </span>
      </button>
    </li>
  )
}

function One({ slug, id, onDone }: { slug: string; id: string; onDone: () => void }) {
  const dispute = useQuery(disputeQuery(slug, id))
  return (
    <Loaded query={dispute} what={t('adjudicate.oneFailed')}>
      {(detail) => <DisputeView slug={slug} dispute={detail} onDone={onDone} />}
    </Loaded>
  )
}
