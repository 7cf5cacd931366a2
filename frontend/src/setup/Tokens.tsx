/** Keys for programs. A secret is shown once and never again. */
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { KeyRound, Plus } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { createToken, keys, revokeToken, sessionQuery, tokensQuery } from 'src/api/queries'
import type { NewToken, Token } from 'src/api/schema'
import { exactTime } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Badge, CopyBox, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, SelectField, TextField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'

type Scope = Token['scopes'][number]

const SCOPES: [Scope, Key, Key][] = [
  ['read', 'tokens.read', 'tokens.readNote'],
  ['write', 'tokens.write', 'tokens.writeNote'],
  ['jobs', 'tokens.jobs', 'tokens.jobsNote'],
]
const DAYS = ['30', '90', '365', ''] as const

function scopeName(scope: string): string {
  const known = SCOPES.find(([value]) => value === scope)
  return known ? t(known[1]) : scope
}

export default function Tokens() {
  const client = useQueryClient()
  const list = useInfiniteQuery(tokensQuery())
  const [creating, setCreating] = useState(false)
  const [created, setCreated] = useState<NewToken | null>(null)
  const revoke = useMutation({
    mutationFn: revokeToken,
    onSettled: () => client.invalidateQueries({ queryKey: keys.tokens }),
  })
  const columns: Column<Token>[] = [
    { name: 'name', header: t('tokens.name'), cell: (row) => <strong>{row.name}</strong> },
    { name: 'scopes', header: t('tokens.scopes'), cell: (row) => row.scopes.map(scopeName).join(', ') },
    { name: 'project', header: t('tokens.project'), cell: (row) => row.project ?? t('tokens.allProjects') },
    { name: 'created', header: t('tokens.created'), cell: (row) => <Time at={row.created_at} /> },
    {
      name: 'used',
      header: t('tokens.lastUsed'),
      cell: (row) => (row.last_used_at ? <Time at={row.last_used_at} /> : t('tokens.never')),
    },
    {
      name: 'expires',
      header: t('tokens.expires'),
      cell: (row) => (row.expires_at ? exactTime(row.expires_at) : t('tokens.never')),
    },
    {
      name: 'revoke',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) =>
        row.revoked_at ? (
          <Badge>{t('tokens.revoked')}</Badge>
        ) : (
          <Button
            look="danger"
            small
            aria-label={t('tokens.revokeNamed', { name: row.name })}
            busy={revoke.isPending && revoke.variables === row.id}
            onClick={() => revoke.mutate(row.id)}
          >
            {t('tokens.revoke')}
          </Button>
        ),
    },
  ]
  const add = (
    <Button look="primary" onClick={() => setCreating(true)}>
      <Plus size={16} aria-hidden="true" />
      {t('tokens.new')}
    </Button>
  )
  return (
    <Page title={t('account.tokens')} intro={t('tokens.intro')} actions={add}>
      {revoke.isError && <ErrorPanel what={t('tokens.revokeFailed')} error={revoke.error} />}
      <Card flush>
        <Loaded query={list} what={t('tokens.failed')}>
          {(rows) =>
            rows.length === 0 ? (
              <Empty icon={KeyRound} title={t('tokens.none')}>
                {t('tokens.noneText')}
              </Empty>
            ) : (
              <DataTable
                caption={t('account.tokens')}
                columns={columns}
                rows={rows}
                rowKey={(row) => row.id}
                more={list}
              />
            )
          }
        </Loaded>
      </Card>
      {creating && (
        <CreateDialog
          onClose={() => setCreating(false)}
          onCreated={(token) => {
            setCreating(false)
            setCreated(token)
            void client.invalidateQueries({ queryKey: keys.tokens })
          }}
        />
      )}
      {created && <SecretDialog token={created} onClose={() => setCreated(null)} />}
    </Page>
  )
}

function CreateDialog({ onClose, onCreated }: { onClose: () => void; onCreated: (token: NewToken) => void }) {
  const user = useQuery(sessionQuery()).data?.user
  const [name, setName] = useState('')
  const [scopes, setScopes] = useState<Scope[]>(['read'])
  const [project, setProject] = useState('')
  const [days, setDays] = useState<string>('90')
  const create = useMutation({
    mutationFn: () =>
      createToken({
        name: name.trim(),
        scopes,
        ...(project ? { project } : {}),
        ...(days ? { expires_days: Number(days) } : {}),
      }),
    onSuccess: onCreated,
  })
  const errors = fieldErrors(create.error)
  return (
    <Dialog
      title={t('tokens.newTitle')}
      onClose={onClose}
      onSubmit={() => create.mutate()}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={create.isPending}>
            {t('tokens.create')}
          </Button>
        </>
      }
    >
      <TextField
        label={t('tokens.name')}
        help={t('tokens.nameHelp')}
        error={errors.name}
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <ChoiceGroup legend={t('tokens.scopes')} error={errors.scopes}>
        {SCOPES.map(([scope, label, note]) => (
          <ChoiceCard
            key={scope}
            kind="checkbox"
            label={t(label)}
            note={t(note)}
            checked={scopes.includes(scope)}
            onChange={(event) =>
              setScopes(event.target.checked ? [...scopes, scope] : scopes.filter((other) => other !== scope))
            }
          />
        ))}
      </ChoiceGroup>
      <SelectField
        label={t('tokens.project')}
        error={errors.project}
        value={project}
        onChange={(event) => setProject(event.target.value)}
        options={[
          ['', t('tokens.allProjects')],
          ...(user?.projects ?? []).map((entry): [string, string] => [entry.slug, entry.name]),
        ]}
      />
      <SelectField
        label={t('tokens.expires')}
        error={errors.expires_days}
        value={days}
        onChange={(event) => setDays(event.target.value)}
        options={DAYS.map((value): [string, string] => [
          value,
          value ? t('tokens.days', { n: Number(value) }) : t('tokens.never'),
        ])}
      />
      {create.isError && Object.keys(errors).length === 0 && (
        <ErrorPanel what={t('tokens.createFailed')} error={create.error} />
      )}
    </Dialog>
  )
}

function SecretDialog({ token, onClose }: { token: NewToken; onClose: () => void }) {
  return (
    <Dialog
      title={t('tokens.createdTitle', { name: token.name })}
      onClose={onClose}
      dismissable={false}
      width={640}
      footer={
        <Button look="primary" onClick={onClose}>
          {t('tokens.stored')}
        </Button>
      }
    >
      <Notice tone="warn">{t('tokens.once')}</Notice>
      <CopyBox text={token.secret} label={t('tokens.secret')} wrap />
      <p className="muted small">{t('tokens.use')}</p>
      <CopyBox text={`Authorization: Bearer ${token.secret}`} label={t('tokens.header')} wrap />
    </Dialog>
  )
}
