/** Links for the first people of a project. Each is for one person and shown here only, until this page is left. */
import { Link2 } from 'lucide-react'
import { useState } from 'react'
import type { InviteRequest, NewInvitation } from 'src/api/schema'
import { invitationLink, invite } from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/setup/SetUp.module.css'
import { exactTime } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { roleOptions } from 'src/ui/roles'
import { CopyBox } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { SelectField } from 'src/ui/widgets/Field'
import { Card } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'

type Role = NonNullable<InviteRequest['role']>
const MOST = 10

export function InviteLinks({ slug }: { slug: string }) {
  const [role, setRole] = useState<Role>('annotator')
  const [number, setNumber] = useState('2')
  const [made, setMade] = useState<NewInvitation[]>([])
  const make = useWrite(slug, async () => {
    // One after the other, so that those before a failure are shown.
    for (let left = Number(number); left > 0; left -= 1) {
      const invitation = await invite(slug, { role })
      setMade((before) => [...before, invitation])
    }
  })
  return (
    <Card title={t('inviteLinks.title')} note={t('inviteLinks.note')}>
      <form
        noValidate
        className={styles.line}
        onSubmit={(event) => {
          event.preventDefault()
          if (!make.isPending) make.mutate(undefined)
        }}
      >
        <SelectField
          label={t('inviteLinks.number')}
          value={number}
          options={Array.from({ length: MOST }, (_, index): [string, string] => [String(index + 1), String(index + 1)])}
          onChange={(event) => setNumber(event.target.value)}
        />
        <SelectField
          label={t('people.role')}
          value={role}
          options={roleOptions()}
          onChange={(event) => setRole(event.target.value as Role)}
        />
        <Button look={made.length > 0 ? 'plain' : 'primary'} type="submit" busy={make.isPending}>
          <Link2 size={16} aria-hidden="true" />
          {t('inviteLinks.make', { n: Number(number) })}
        </Button>
      </form>
      <p className="muted small">{t(`inviteLinks.role.${role}`)}</p>
      {make.isError && <ErrorPanel what={t('invitations.makeFailed')} error={make.error} />}
      {made.length > 0 && (
        <>
          <Notice tone="warn">{t('inviteLinks.once')}</Notice>
          {made.map(({ id, role: as, secret, expires_at }, index) => (
            <div key={id} className={styles.link}>
              <CopyBox
                text={invitationLink(secret)}
                label={t('inviteLinks.link', { number: index + 1, role: t(`role.${as}`) })}
                wrap
              />
              <p className="muted small">{t('invitations.linkNote', { when: exactTime(expires_at) })}</p>
            </div>
          ))}
        </>
      )}
    </Card>
  )
}
