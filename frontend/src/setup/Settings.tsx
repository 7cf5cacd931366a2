/** All settings of a project, group by group, and the form that annotators fill in. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { patchProject, projectQuery } from 'src/api/queries'
import type { PatchedProjectPatchRequest, Project } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { ChatSettings } from 'src/setup/ChatSettings'
import { FormBuilder } from 'src/setup/FormBuilder'
import { GuidelineEditor } from 'src/setup/GuidelineEditor'
import { GROUPS, type Setting, shown, stored } from 'src/setup/settingsSpec'
import { type Key, t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { ChoiceCard, SelectField, TextField } from 'src/ui/widgets/Field'
import { Card, Columns, Page, Row } from 'src/ui/widgets/Page'
import { ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'
import { Tabs } from 'src/ui/widgets/Tabs'
import { useParams, useSearchParams } from 'wouter'

const TABS = ['settings', 'form', 'guideline', 'chat'] as const
type Tab = (typeof TABS)[number]

export default function Settings() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, setSearch] = useSearchParams()
  const tab = TABS.find((name) => name === search.get('tab')) ?? 'settings'
  const project = useQuery(projectQuery(slug))
  return (
    <Page title={t('nav.settings')} intro={t('settings.intro')}>
      <Tabs<Tab>
        label={t('nav.settings')}
        tabs={TABS.map((name): [Tab, string] => [name, t(`settings.tab.${name}`)])}
        selected={tab}
        onSelect={(name) => setSearch({ tab: name }, { replace: true })}
      >
        <Loaded query={project} what={t('settings.failed')}>
          {(row) => (
            <div style={{ display: 'grid', gap: 24 }}>
              {tab === 'settings' &&
                GROUPS.map((group) => <Group key={group.title} slug={slug} project={row} {...group} />)}
              {tab === 'form' && <FormBuilder key={JSON.stringify(row.form)} slug={slug} form={row.form} />}
              {tab === 'chat' && <ChatSettings slug={slug} />}
              {tab === 'guideline' && <GuidelineEditor slug={slug} guideline={row.guideline} />}
            </div>
          )}
        </Loaded>
      </Tabs>
    </Page>
  )
}

type GroupProps = { slug: string; project: Project; title: Key; settings: Setting[] }

function Group({ slug, project, title, settings }: GroupProps) {
  const { canManage } = useMembership(slug)
  const values = project as unknown as Record<string, unknown>
  const there = settings.filter(({ name }) => name in values)
  const [edits, setEdits] = useState<Record<string, string>>({})
  const textOf = (setting: Setting) => edits[setting.name] ?? shown(setting, values[setting.name])
  const changed = there.filter((setting) => textOf(setting) !== shown(setting, values[setting.name]))
  const save = useWrite(
    slug,
    () =>
      patchProject(
        slug,
        Object.fromEntries(
          changed.map((setting) => [setting.name, stored(setting, textOf(setting))]),
        ) as PatchedProjectPatchRequest,
      ),
    () => setEdits({}),
  )
  if (there.length === 0) return null
  const errors = fieldErrors(save.error)
  return (
    <form
      noValidate
      onSubmit={(event) => {
        event.preventDefault()
        if (changed.length > 0) save.mutate(undefined)
      }}
    >
      <Card title={t(title)}>
        <Columns width={260}>
          {there.map((setting) => (
            <SettingField
              key={setting.name}
              setting={setting}
              value={textOf(setting)}
              changed={changed.includes(setting)}
              disabled={!canManage}
              error={errors[setting.name]}
              onChange={(text) => setEdits({ ...edits, [setting.name]: text })}
            />
          ))}
        </Columns>
        {save.isError && <ErrorPanel what={t('settings.saveFailed')} error={save.error} />}
        {save.isSuccess && changed.length === 0 && (
          <Notice tone="ok" role="status">
            {t('settings.saved')}
          </Notice>
        )}
        {canManage && (
          <Row>
            <Button look="primary" type="submit" disabled={changed.length === 0} busy={save.isPending}>
              {changed.length > 0 ? t('settings.save', { n: changed.length }) : t('action.save')}
            </Button>
            {changed.length > 0 && <Button onClick={() => setEdits({})}>{t('action.cancel')}</Button>}
          </Row>
        )}
      </Card>
    </form>
  )
}

type FieldProps = {
  setting: Setting
  value: string
  changed: boolean
  disabled: boolean
  error: string | undefined
  onChange: (text: string) => void
}

function SettingField({ setting, value, changed, disabled, error, onChange }: FieldProps) {
  const { kind, label, help } = setting
  const shared = { label: t(label), help: help && t(help), error, changed, disabled, value }
  if (kind === 'flag') {
    return (
      <ChoiceCard
        kind="checkbox"
        label={t(label)}
        note={help && t(help)}
        disabled={disabled}
        checked={value === 'true'}
        onChange={(event) => onChange(String(event.target.checked))}
      />
    )
  }
  if (typeof kind === 'object') {
    const options = kind.choices.map(([choice, text]): [string, string] => [choice, t(text)])
    return <SelectField {...shared} options={options} onChange={(event) => onChange(event.target.value)} />
  }
  const isShare = kind === 'share' || kind === 'optionalShare'
  return (
    <TextField
      {...shared}
      unit={isShare ? '%' : undefined}
      inputMode={kind === 'text' ? undefined : 'decimal'}
      placeholder={kind === 'optional' || kind === 'optionalShare' ? t('form.none') : undefined}
      onChange={(event) => onChange(event.target.value)}
    />
  )
}
