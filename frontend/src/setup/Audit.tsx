/** Who did what in the project. Events are never changed. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { ScrollText } from 'lucide-react'
import { useState } from 'react'
import { auditQuery } from 'src/api/quality'
import type { AuditEvent, AuditEventActionEnum } from 'src/api/schema'
import { hasWords, t } from 'src/ui/i18n/t'
import { Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { TextField } from 'src/ui/widgets/Field'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Page } from 'src/ui/widgets/Page'
import { useParams, useSearchParams } from 'wouter'

/** An action in words; one that is not written any more, as it stands in the log. */
const said = (action: AuditEventActionEnum): string => {
  const key = `audit.did.${action}` as const
  return hasWords(key) ? t(key) : action
}

export default function Audit() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, setSearch] = useSearchParams()
  const filter = { action: search.get('action') ?? '', target: search.get('target') ?? '' }
  const [action, setAction] = useState(filter.action)
  const [target, setTarget] = useState(filter.target)
  const list = useInfiniteQuery(auditQuery(slug, filter))
  const columns: Column<AuditEvent>[] = [
    { name: 'at', header: t('audit.when'), cell: (row) => <Time at={row.created_at} /> },
    { name: 'by', header: t('audit.by'), cell: (row) => row.by?.name ?? t('audit.itself') },
    {
      name: 'action',
      header: t('audit.action'),
      wrap: true,
      cell: ({ action }) => (
        <>
          {said(action)}
          <div className="muted small">
            <code>{action}</code>
          </div>
        </>
      ),
    },
    { name: 'target', header: t('audit.target'), wrap: true, cell: (row) => row.target },
    {
      name: 'details',
      header: t('audit.details'),
      wrap: true,
      cell: (row) => <code style={{ overflowWrap: 'anywhere' }}>{JSON.stringify(row.details)}</code>,
    },
  ]
  return (
    <Page title={t('nav.audit')} intro={t('audit.intro')}>
      <form
        style={{ display: 'flex', gap: 12, alignItems: 'end', flexWrap: 'wrap' }}
        onSubmit={(event) => {
          event.preventDefault()
          setSearch({ ...(action ? { action } : {}), ...(target ? { target } : {}) })
        }}
      >
        <TextField
          label={t('audit.action')}
          placeholder="member"
          value={action}
          onChange={(event) => setAction(event.target.value)}
        />
        <TextField label={t('audit.target')} value={target} onChange={(event) => setTarget(event.target.value)} />
        <Button type="submit">{t('audit.filter')}</Button>
      </form>
      <ListCard
        title={t('nav.audit')}
        query={list}
        failed={t('audit.failed')}
        columns={columns}
        rowKey={(row) => String(row.id)}
        empty={{ icon: ScrollText, title: t('audit.none'), text: t('audit.noneText') }}
      />
    </Page>
  )
}
