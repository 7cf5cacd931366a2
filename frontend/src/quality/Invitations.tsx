/** Links that make one person a member. A link is shown once; only a hash of its secret is kept. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Mail, Plus } from 'lucide-react'
import { useState } from 'react'
import type { Invitation, InviteRequest, NewInvitation } from 'src/api/schema'
import { invitationLink, invitationsQuery, invite, revokeInvitation } from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import { exactTime } from 'src/ui/format'
import { hasWords, t } from 'src/ui/i18n/t'
import { roleOptions } from 'src/ui/roles'
import { Badge, CopyBox, Time, type Tone } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { SelectField, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { ListCard } from 'src/ui/widgets/ListCard'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'
import { readTags, TagsField } from 'src/ui/widgets/TagsField'

const TONES: Record<string, Tone> = { open: 'live', accepted: 'ok' }

/** A state of a newer server is shown by its code rather than hidden. */
function stateText(state: string): string {
  const key = `invite.state.${state}`
  return hasWords(key) ? t(key as 'invite.state.open') : state
}

export function Invitations({ slug }: { slug: string }) {
  const list = useInfiniteQuery(invitationsQuery(slug))
  const [inviting, setInviting] = useState(false)
  const [made, setMade] = useState<NewInvitation | null>(null)
  const revoke = useWrite(slug, (id: string) => revokeInvitation(slug, id))
  const columns: Column<Invitation>[] = [
    { name: 'role', header: t('people.role'), cell: (row) => t(`role.${row.role}`) },
    { name: 'email', header: t('signIn.email'), cell: (row) => row.email || t('invitations.anybody') },
    {
      name: 'state',
      header: t('comparisons.state'),
      cell: (row) => <Badge tone={TONES[row.state]}>{stateText(row.state)}</Badge>,
    },
    { name: 'by', header: t('invitations.by'), cell: (row) => row.created_by },
    { name: 'at', header: t('tokens.created'), cell: (row) => <Time at={row.created_at} /> },
    { name: 'expires', header: t('tokens.expires'), cell: (row) => exactTime(row.expires_at) },
    { name: 'accepted', header: t('invitations.acceptedBy'), cell: (row) => row.accepted_by ?? '–' },
    {
      name: 'revoke',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) =>
        row.state === 'open' && (
          <Button
            look="danger"
            small
            busy={revoke.isPending && revoke.variables === row.id}
            onClick={() => revoke.mutate(row.id)}
          >
            {t('tokens.revoke')}
          </Button>
        ),
    },
  ]
  return (
    <>
      {revoke.isError && <ErrorPanel what={t('error.action')} error={revoke.error} />}
      <ListCard
        title={t('invitations.title')}
        showTitle
        query={list}
        failed={t('invitations.failed')}
        columns={columns}
        rowKey={(row) => row.id}
        actions={
          <Button small onClick={() => setInviting(true)}>
            <Plus size={16} aria-hidden="true" />
            {t('invitations.new')}
          </Button>
        }
        empty={{ icon: Mail, title: t('invitations.none'), text: t('invitations.noneText') }}
      />
      {inviting && (
        <InviteDialog
          slug={slug}
          onClose={() => setInviting(false)}
          onMade={(invitation) => {
            setInviting(false)
            setMade(invitation)
          }}
        />
      )}
      {made && (
        <Dialog
          title={t('invitations.link')}
          onClose={() => setMade(null)}
          dismissable={false}
          width={640}
          footer={
            <Button look="primary" onClick={() => setMade(null)}>
              {t('invitations.copied')}
            </Button>
          }
        >
          <Notice tone="warn">{t('tokens.once')}</Notice>
          <CopyBox text={invitationLink(made.secret)} label={t('invitations.link')} wrap />
          <p className="muted small">{t('invitations.linkNote', { when: exactTime(made.expires_at) })}</p>
        </Dialog>
      )}
    </>
  )
}

type InviteProps = { slug: string; onClose: () => void; onMade: (invitation: NewInvitation) => void }

function InviteDialog({ slug, onClose, onMade }: InviteProps) {
  const [role, setRole] = useState<NonNullable<InviteRequest['role']>>('annotator')
  const [email, setEmail] = useState('')
  const [languages, setLanguages] = useState('')
  const [skills, setSkills] = useState('')
  const make = useWrite(
    slug,
    () => invite(slug, { role, email: email.trim(), languages: readTags(languages), skills: readTags(skills) }),
    onMade,
  )
  return (
    <FormDialog
      title={t('invitations.new')}
      submit={t('invitations.make')}
      busy={make.isPending}
      error={make.error}
      failed={t('invitations.makeFailed')}
      onSubmit={() => make.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <SelectField
            label={t('people.role')}
            error={errors.role}
            value={role}
            options={roleOptions()}
            onChange={(event) => setRole(event.target.value as typeof role)}
          />
          <TextField
            label={t('invitations.email')}
            help={t('invitations.emailHelp')}
            type="email"
            error={errors.email}
            value={email}
            onChange={(event) => setEmail(event.target.value)}
          />
          <TagsField
            label={t('people.languages')}
            help={t('people.languagesHelp')}
            error={errors.languages}
            value={languages}
            onChange={setLanguages}
          />
          <TagsField
            label={t('people.skills')}
            help={t('people.skillsHelp')}
            error={errors.skills}
            value={skills}
            onChange={setSkills}
          />
        </>
      )}
    </FormDialog>
  )
}
