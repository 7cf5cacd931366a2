import { useMutation } from '@tanstack/react-query'
import { useRef, useState } from 'react'
import { ApiError } from 'src/api/errors'
import { signIn } from 'src/api/queries'
import type { User } from 'src/api/schema'
import { Mark } from 'src/app/Mark'
import styles from 'src/app/SignIn.module.css'
import { chooseLanguage, LANGUAGES, language, nameOf } from 'src/ui/i18n/languages'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { TextField } from 'src/ui/widgets/Field'
import { useTitle } from 'src/ui/widgets/Page'
import { errorMessage } from 'src/ui/widgets/States'

function refusal(error: unknown): string {
  if (error instanceof ApiError) {
    if (error.code === 'too_many_attempts' || error.status === 429) return t('signIn.tooMany')
    if (error.status === 400 || error.status === 401 || error.code === 'bad_credentials') return t('signIn.bad')
  }
  return errorMessage(error)
}

function useSignIn(onSignedIn: (user: User) => void, known: string) {
  const [email, setEmail] = useState(known)
  const [password, setPassword] = useState('')
  const [visible, setVisible] = useState(false)
  const secret = useRef<HTMLInputElement>(null)
  const attempt = useMutation({
    mutationFn: () => signIn(email.trim(), password),
    onSuccess: onSignedIn,
    onError: () => secret.current?.focus(),
  })
  const submit = () => {
    if (!attempt.isPending) attempt.mutate()
  }
  const fields = (
    <div className={styles.fields}>
      <TextField
        label={t('signIn.email')}
        type="email"
        name="email"
        autoComplete="username"
        required
        autoFocus={!known}
        value={email}
        onChange={(event) => setEmail(event.target.value)}
      />
      <TextField
        label={t('signIn.password')}
        ref={secret}
        type={visible ? 'text' : 'password'}
        name="password"
        autoComplete="current-password"
        required
        autoFocus={Boolean(known)}
        value={password}
        onChange={(event) => setPassword(event.target.value)}
      />
      <label className={styles.show}>
        <input type="checkbox" checked={visible} onChange={(event) => setVisible(event.target.checked)} />
        {t('signIn.show')}
      </label>
      {attempt.isError && (
        <div role="alert" className={styles.alert}>
          {refusal(attempt.error)}
        </div>
      )}
    </div>
  )
  const button = (
    <Button look="primary" type="submit" busy={attempt.isPending}>
      {attempt.isPending ? t('signIn.busy') : t('signIn.submit')}
    </Button>
  )
  return { fields, button, submit }
}

/** Before anybody is known: whoever cannot read the page finds the own language by its own name. */
function LanguageField() {
  return (
    <label className={styles.language}>
      {t('account.language')}
      <select
        value={language()}
        onChange={(event) => {
          const chosen = LANGUAGES.find((name) => name === event.target.value)
          if (chosen) void chooseLanguage(chosen).catch(() => undefined)
        }}
      >
        {LANGUAGES.map((name) => (
          <option key={name} value={name} lang={name}>
            {nameOf(name)}
          </option>
        ))}
      </select>
    </label>
  )
}

export function SignInPage({ onSignedIn }: { onSignedIn: (user: User) => void }) {
  const { fields, button, submit } = useSignIn(onSignedIn, '')
  useTitle(t('signIn.title'))
  return (
    <main className={styles.page}>
      <div className={styles.box}>
        <div className={styles.brand}>
          <Mark size={44} />
          <div>
            <h1>{t('signIn.heading')}</h1>
            <p>{t('signIn.intro')}</p>
          </div>
        </div>
        <form
          className={styles.form}
          noValidate
          onSubmit={(event) => {
            event.preventDefault()
            submit()
          }}
        >
          {fields}
          {button}
        </form>
        <p className="muted small">{t('signIn.help')}</p>
        <LanguageField />
      </div>
    </main>
  )
}

/** The session has ended: sign in without leaving the work. */
export function SignInDialog({ email, onSignedIn }: { email: string; onSignedIn: (user: User) => void }) {
  const { fields, button, submit } = useSignIn(onSignedIn, email)
  return (
    <Dialog
      title={t('signIn.again')}
      width={420}
      dismissable={false}
      onClose={() => undefined}
      onSubmit={submit}
      footer={button}
    >
      <p>{t('signIn.againText')}</p>
      {fields}
    </Dialog>
  )
}
