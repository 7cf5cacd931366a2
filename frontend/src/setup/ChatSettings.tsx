/** Whether people of the project may chat, and who answers. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { modelsQuery } from 'src/api/queries'
import type { Chat } from 'src/api/schema'
import { changeChat, chatQuery } from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import { typedNumber } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { ChoiceCard, ChoiceGroup, TextField } from 'src/ui/widgets/Field'
import { Card, Columns, Row } from 'src/ui/widgets/Page'
import { ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'

export function ChatSettings({ slug }: { slug: string }) {
  const chat = useQuery(chatQuery(slug))
  return (
    <Loaded query={chat} what={t('settings.failed')}>
      {(found) => <Form key={JSON.stringify(found)} slug={slug} chat={found} />}
    </Loaded>
  )
}

function Form({ slug, chat }: { slug: string; chat: Chat }) {
  const { canManage } = useMembership(slug)
  const models = useInfiniteQuery(modelsQuery(slug))
  const [enabled, setEnabled] = useState(chat.enabled)
  const [policies, setPolicies] = useState(chat.policies)
  const [server, setServer] = useState(chat.server)
  const [turns, setTurns] = useState(String(chat.max_turns))
  const [sampling, setSampling] = useState({
    temperature: String(chat.sampling.temperature ?? ''),
    top_p: String(chat.sampling.top_p ?? ''),
    max_new_tokens: String(chat.sampling.max_new_tokens ?? ''),
  })
  const save = useWrite(slug, () =>
    changeChat(slug, {
      enabled,
      policies,
      server,
      max_turns: Number(turns),
      sampling: Object.fromEntries(
        Object.entries(sampling).flatMap(([name, text]) => (text.trim() ? [[name, typedNumber(text)]] : [])),
      ),
    }),
  )
  const errors = fieldErrors(save.error)
  const number = (name: keyof typeof sampling, label: string) => (
    <TextField
      label={label}
      inputMode="decimal"
      error={errors[name] ?? errors[`sampling.${name}`]}
      value={sampling[name]}
      onChange={(event) => setSampling({ ...sampling, [name]: event.target.value })}
    />
  )
  return (
    <form
      noValidate
      onSubmit={(event) => {
        event.preventDefault()
        save.mutate(undefined)
      }}
    >
      <Card title={t('chatSettings.title')} note={t('chatSettings.note')}>
        <ChoiceCard
          kind="checkbox"
          label={t('chatSettings.enabled')}
          note={errors.enabled}
          checked={enabled}
          onChange={(event) => setEnabled(event.target.checked)}
        />
        <ChoiceGroup legend={t('chatSettings.policies')} error={errors.policies}>
          {(models.data ?? [])
            .filter(({ kind }) => kind === 'policy')
            .map(({ id, name }) => (
              <ChoiceCard
                key={id}
                kind="checkbox"
                label={name}
                checked={policies.includes(id)}
                onChange={(event) =>
                  setPolicies(event.target.checked ? [...policies, id] : policies.filter((other) => other !== id))
                }
              />
            ))}
          {chat.server_model !== null && (
            <ChoiceCard
              kind="checkbox"
              label={t('chatSettings.server')}
              note={chat.server_model}
              checked={server}
              onChange={(event) => setServer(event.target.checked)}
            />
          )}
        </ChoiceGroup>
        <Columns width={160}>
          <TextField
            label={t('chatSettings.turns')}
            inputMode="numeric"
            error={errors.max_turns}
            value={turns}
            onChange={(event) => setTurns(event.target.value)}
          />
          {number('temperature', t('round.temperatureField'))}
          {number('top_p', t('round.topField'))}
          {number('max_new_tokens', t('round.tokensField'))}
        </Columns>
        {save.isError && <ErrorPanel what={t('settings.saveFailed')} error={save.error} />}
        {save.isSuccess && (
          <Notice tone="ok" role="status">
            {t('settings.saved')}
          </Notice>
        )}
        {canManage && (
          <Row>
            <Button look="primary" type="submit" busy={save.isPending}>
              {t('action.save')}
            </Button>
          </Row>
        )}
      </Card>
    </form>
  )
}
