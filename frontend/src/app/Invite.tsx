/** Coming in by a link: join as who is signed in, or as a new person. The secret is in the fragment, never in a path. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { keys, sessionQuery } from 'src/api/queries'
import type { Invited, User } from 'src/api/schema'
import { acceptInvitation, invitedQuery } from 'src/api/setup'
import { Mark } from 'src/app/Mark'
import { exactTime } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { TextField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'
import { useLocation } from 'wouter'

export default function Invite({ onSignIn }: { onSignIn?: () => void }) {
  // Read once: the address keeps no secret once the person is in.
  const [secret] = useState(() => window.location.hash.slice(1))
  const user = useQuery(sessionQuery()).data?.user ?? null
  const invited = useQuery(invitedQuery(secret))
  return (
    <Page title={t('invite.title')} above={user ? undefined : <Product />} narrow>
      <Card>
        {secret === '' ? (
          <Notice tone="warn">{t('invite.noSecret')}</Notice>
        ) : (
          <Loaded query={invited} what={t('invite.unknown')}>
            {(invitation) => <Offer invitation={invitation} secret={secret} user={user} onSignIn={onSignIn} />}
          </Loaded>
        )}
      </Card>
    </Page>
  )
}

/** For who comes in, and sees this page before any other. */
function Product() {
  return (
    <span style={{ display: 'inline-flex', alignItems: 'center', gap: 8 }}>
      <Mark size={32} />
      <strong>{t('app.name')}</strong>
    </span>
  )
}

type OfferProps = { invitation: Invited; secret: string; user: User | null; onSignIn?: () => void }

function Offer({ invitation, secret, user, onSignIn }: OfferProps) {
  const client = useQueryClient()
  const [, navigate] = useLocation()
  const [email, setEmail] = useState(invitation.email)
  const [name, setName] = useState('')
  const [password, setPassword] = useState('')
  const accept = useMutation({
    mutationFn: () =>
      acceptInvitation(user ? { secret } : { secret, email: email.trim(), name: name.trim(), password }),
    onSuccess: async ({ project, role }) => {
      await client.invalidateQueries({ queryKey: keys.session })
      const annotates = role === 'annotator' || role === 'adjudicator'
      navigate(annotates ? `/p/${project}/start` : `/r/${project}`, { replace: true })
    },
  })
  const errors = fieldErrors(accept.error)
  if (invitation.state !== 'open') {
    return (
      <Notice tone="warn">
        {t('invite.over', { state: t(`invite.state.${invitation.state}`), who: invitation.invited_by })}
      </Notice>
    )
  }
  return (
    <form
      noValidate
      style={{ display: 'grid', gap: 16 }}
      onSubmit={(event) => {
        event.preventDefault()
        accept.mutate()
      }}
    >
      <p>
        {t('invite.offer', {
          who: invitation.invited_by,
          project: invitation.project.name,
          role: t(`role.${invitation.role}`),
        })}{' '}
        <span className="muted">{t('invite.until', { when: exactTime(invitation.expires_at) })}</span>
      </p>
      {user ? (
        <p>{t('invite.as', { email: user.email })}</p>
      ) : (
        <>
          <TextField
            label={t('signIn.email')}
            type="email"
            autoComplete="username"
            error={errors.email}
            readOnly={invitation.email !== ''}
            value={email}
            onChange={(event) => setEmail(event.target.value)}
          />
          <TextField
            label={t('invite.name')}
            autoComplete="name"
            error={errors.name}
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
          <TextField
            label={t('invite.password')}
            type="password"
            autoComplete="new-password"
            error={errors.password}
            value={password}
            onChange={(event) => setPassword(event.target.value)}
          />
        </>
      )}
      {accept.isError && <ErrorPanel what={t('invite.failed')} error={accept.error} />}
      <div style={{ display: 'flex', gap: 8, flexWrap: 'wrap' }}>
        <Button look="primary" type="submit" busy={accept.isPending}>
          {user ? t('invite.join') : t('invite.joinNew')}
        </Button>
        {!user && <Button onClick={onSignIn}>{t('invite.signIn')}</Button>}
      </div>
    </form>
  )
}
