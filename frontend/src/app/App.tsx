/** Who is here decides what is shown: sign-in, or the shell with its screens. A session that ends asks in place. */
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { lazy, Suspense, useEffect, useState } from 'react'
import { closeOutbox, outboxOf } from 'src/annotate/outboxStore'
import { onSignedOut } from 'src/api/client'
import { keys, sessionQuery } from 'src/api/queries'
import type { User } from 'src/api/schema'
import { Routes } from 'src/app/routes'
import { Shell } from 'src/app/Shell'
import { SignInDialog, SignInPage } from 'src/app/SignIn'
import { t } from 'src/ui/i18n/t'
import { ErrorPanel, Guard } from 'src/ui/widgets/States'
import { useLocation } from 'wouter'

/** The one page that needs no account. */
const Invite = lazy(() => import('src/app/Invite'))

export function App() {
  const session = useQuery(sessionQuery())
  const client = useQueryClient()
  const user = session.data?.user ?? null
  const [expired, setExpired] = useState(false)
  const [signingIn, setSigningIn] = useState(false)
  const [path] = useLocation()

  useEffect(() => onSignedOut(() => setExpired(true)), [])
  useEffect(() => {
    // Votes of an earlier visit leave from any page.
    if (user) outboxOf(user.id)
  }, [user])

  const signedIn = (who: User) => {
    if (user && user.id !== who.id) {
      // Another person: nothing of the first one's page may stay, and their votes wait for them.
      closeOutbox()
      window.location.assign('/')
      return
    }
    client.setQueryData(keys.session, { user: who })
    setExpired(false)
    if (user) {
      void outboxOf(who.id).resume()
      void client.invalidateQueries({ predicate: (query) => query.queryKey[0] !== keys.session[0] })
    }
  }

  if (session.data === undefined) {
    if (session.isPending && session.error === null) return null
    return (
      <div style={{ maxWidth: 560, margin: '15vh auto', padding: 16 }}>
        <ErrorPanel what={t('app.unreachable')} error={session.error} retry={() => void session.refetch()} />
      </div>
    )
  }
  if (!user) {
    if (path === '/invite' && !signingIn) {
      return (
        <Suspense fallback={null}>
          <Invite onSignIn={() => setSigningIn(true)} />
        </Suspense>
      )
    }
    return <SignInPage onSignedIn={signedIn} />
  }
  return (
    <>
      <Shell user={user}>
        <Guard>
          <Routes />
        </Guard>
      </Shell>
      {expired && <SignInDialog email={user.email} onSignedIn={signedIn} />}
    </>
  )
}
