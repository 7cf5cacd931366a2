/** Alarms of the project: those that nobody has looked at first. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { BellRing } from 'lucide-react'
import { alarmsQuery } from 'src/api/modelsApi'
import { AlarmCard } from 'src/training/AlarmCard'
import styles from 'src/training/Alarms.module.css'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Button } from 'src/ui/widgets/Button'
import { Filters } from 'src/ui/widgets/Filters'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, SkeletonBoxes } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

/** Of the address, with what the API is asked. */
const STATES = [
  ['open', 'true'],
  ['acknowledged', 'false'],
  ['all', undefined],
] as const

export default function Alarms() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, change] = useAddress()
  const job = search.get('job') ?? ''
  const [state, open] = STATES.find(([name]) => name === search.get('state')) ?? STATES[job ? 2 : 0]
  const list = useInfiniteQuery(alarmsQuery(slug, { ...(open && { open }), ...(job && { job }) }))
  const words = {
    open: list.data ? t('alarms.open', { n: list.data.open }) : t('alarm.state.open'),
    acknowledged: t('alarms.acknowledged'),
    all: t('alarms.all'),
  }
  return (
    <Page title={t('nav.alarms')} intro={t('alarms.intro')}>
      <Filters
        label={t('alarms.filter')}
        options={STATES.map(([name]) => [name, words[name]] as const)}
        value={state}
        onChoose={(name) => change({ state: name })}
        only={job ? { label: t('alarms.ofOneJob'), onRemove: () => change({ job: '' }) } : null}
      />
      <Loaded query={list} what={t('alarms.failed')} skeleton={<SkeletonBoxes boxes={2} height={220} />}>
        {({ items }) =>
          items.length === 0 ? (
            <Card>
              <Empty icon={BellRing} title={t(state === 'open' ? 'alarms.noneOpen' : 'alarms.none')}>
                {t(state === 'open' ? 'alarms.noneOpenText' : 'alarms.noneText')}
              </Empty>
            </Card>
          ) : (
            <>
              <ul className={styles.list} aria-label={t('alarms.list')}>
                {items.map((alarm) => (
                  <li key={alarm.id}>
                    <AlarmCard slug={slug} alarm={alarm} />
                  </li>
                ))}
              </ul>
              {list.hasNextPage && (
                <div className={styles.more}>
                  <Button small busy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
                    {t('action.more')}
                  </Button>
                </div>
              )}
            </>
          )
        }
      </Loaded>
    </Page>
  )
}
