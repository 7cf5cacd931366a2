/** Who belongs to the project, what they may do and which comparisons they get. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Users } from 'lucide-react'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import type { Member } from 'src/api/schema'
import { changeMember, membersQuery, removeMember } from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import { DASH } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { roleOptions } from 'src/ui/roles'
import { Badge } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { SelectField, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { ListCard } from 'src/ui/widgets/ListCard'
import { ErrorPanel } from 'src/ui/widgets/States'
import { readTags, TagsField } from 'src/ui/widgets/TagsField'

export function Members({ slug }: { slug: string }) {
  const { canManage, isOwner } = useMembership(slug)
  const list = useInfiniteQuery(membersQuery(slug))
  const [changing, setChanging] = useState<Member | null>(null)
  const remove = useWrite(slug, (person: string) => removeMember(slug, person))
  const columns: Column<Member>[] = [
    {
      name: 'name',
      header: t('people.name'),
      cell: (row) => (
        <>
          <strong>{row.name || row.pseudonym}</strong>
          <div className="muted small">{row.email ?? row.pseudonym}</div>
        </>
      ),
    },
    { name: 'role', header: t('people.role'), cell: (row) => t(`role.${row.role}`) },
    { name: 'languages', header: t('people.languages'), cell: (row) => row.languages.join(', ') || t('people.any') },
    { name: 'skills', header: t('people.skills'), cell: (row) => row.skills.join(', ') || DASH },
    { name: 'cap', header: t('people.cap'), align: 'end', cell: (row) => row.cap ?? DASH },
    {
      name: 'state',
      header: t('comparisons.state'),
      cell: (row) => (
        <>
          {row.paused_at && <Badge tone="warn">{t('people.paused')}</Badge>}{' '}
          {row.excluded_at && <Badge tone="error">{t('people.excluded')}</Badge>}
        </>
      ),
    },
    {
      name: 'change',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) => (
        <span style={{ display: 'inline-flex', gap: 8 }}>
          {canManage && (
            <Button small aria-label={t('people.changeNamed', { name: row.name })} onClick={() => setChanging(row)}>
              {t('people.change')}
            </Button>
          )}
          {isOwner && (
            <Button
              look="danger"
              small
              aria-label={t('people.removeNamed', { name: row.name })}
              busy={remove.isPending && remove.variables === row.id}
              onClick={() => remove.mutate(row.id)}
            >
              {t('webhooks.remove')}
            </Button>
          )}
        </span>
      ),
    },
  ]
  return (
    <>
      {remove.isError && <ErrorPanel what={t('error.action')} error={remove.error} />}
      <ListCard
        title={t('people.members')}
        showTitle
        note={t('people.membersNote')}
        query={list}
        failed={t('people.failed')}
        columns={columns}
        rowKey={(row) => row.id}
        empty={{ icon: Users, title: t('people.none') }}
      />
      {changing && <ChangeDialog slug={slug} member={changing} isOwner={isOwner} onClose={() => setChanging(null)} />}
    </>
  )
}

type ChangeProps = { slug: string; member: Member; isOwner: boolean; onClose: () => void }

function ChangeDialog({ slug, member, isOwner, onClose }: ChangeProps) {
  const [role, setRole] = useState(member.role)
  const [languages, setLanguages] = useState(member.languages.join(', '))
  const [skills, setSkills] = useState(member.skills.join(', '))
  const [cap, setCap] = useState(member.cap === null ? '' : String(member.cap))
  const change = useWrite(
    slug,
    () =>
      changeMember(slug, member.id, {
        ...(role === member.role ? {} : { role }),
        languages: readTags(languages),
        skills: readTags(skills),
        cap: cap.trim() === '' ? null : Number(cap),
      }),
    onClose,
  )
  return (
    <FormDialog
      title={t('people.changeNamed', { name: member.name || member.pseudonym })}
      submit={t('action.save')}
      busy={change.isPending}
      error={change.error}
      failed={t('people.changeFailed')}
      onSubmit={() => change.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          {isOwner && (
            <SelectField
              label={t('people.role')}
              error={errors.role}
              value={role}
              options={roleOptions()}
              onChange={(event) => setRole(event.target.value as typeof role)}
            />
          )}
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
          <TextField
            label={t('people.cap')}
            help={t('people.capHelp')}
            type="number"
            min={0}
            error={errors.cap}
            value={cap}
            onChange={(event) => setCap(event.target.value)}
          />
        </>
      )}
    </FormDialog>
  )
}
