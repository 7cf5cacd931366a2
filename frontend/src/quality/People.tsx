/** The people of a project: their records, their membership, and the links that bring new ones. */
import { useMembership } from 'src/api/membership'
import { Invitations } from 'src/quality/Invitations'
import { Members } from 'src/quality/Members'
import { Records } from 'src/quality/Records'
import { t } from 'src/ui/i18n/t'
import { Page } from 'src/ui/widgets/Page'
import { Tabs } from 'src/ui/widgets/Tabs'
import { useParams, useSearchParams } from 'wouter'

const TABS = ['records', 'members', 'invitations'] as const
type Tab = (typeof TABS)[number]

export default function People() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, setSearch] = useSearchParams()
  const tabs = TABS.filter((name) => name !== 'invitations' || canManage)
  const tab = tabs.find((name) => name === search.get('tab')) ?? 'records'
  return (
    <Page title={t('nav.people')} intro={t('people.intro')}>
      <Tabs<Tab>
        label={t('nav.people')}
        tabs={tabs.map((name): [Tab, string] => [name, t(`people.tab.${name}`)])}
        selected={tab}
        onSelect={(name) => setSearch({ tab: name }, { replace: true })}
      >
        {tab === 'records' && <Records slug={slug} />}
        {tab === 'members' && <Members slug={slug} />}
        {tab === 'invitations' && <Invitations slug={slug} />}
      </Tabs>
    </Page>
  )
}
