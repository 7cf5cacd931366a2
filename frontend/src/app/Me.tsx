/** How this person reads and answers: text size and keys. Kept in this browser, because screens and keyboards differ. */
import { type KeyboardEvent, useState } from 'react'
import styles from 'src/app/Me.module.css'
import { Markdown } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { changeKeys, type KeyChoices, keyChoices } from 'src/ui/keys/choices'
import { CHARACTER, changeable, holderOf, keyLabel, keysOf, pressed } from 'src/ui/keys/keymap'
import { readTextSize, storeTextSize, TEXT_SIZES } from 'src/ui/textSize'
import { Button } from 'src/ui/widgets/Button'
import { ChoiceCard } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'

export default function Me() {
  return (
    <Page title={t('settings.mine')} narrow>
      <Reading />
      <Keys />
    </Page>
  )
}

function Reading() {
  const [size, setSize] = useState(readTextSize)
  return (
    <Card title={t('textSize.title')} note={t('textSize.note')}>
      <fieldset className={styles.sizes}>
        <legend className="visually-hidden">{t('textSize.title')}</legend>
        {TEXT_SIZES.map((one) => (
          <ChoiceCard
            key={one}
            kind="radio"
            name="text-size"
            value={one}
            checked={one === size}
            onChange={() => {
              storeTextSize(one)
              setSize(one)
            }}
            label={t('textSize.pixels', { size: one })}
          />
        ))}
      </fieldset>
      <Markdown text={t('textSize.sample')} prefix="sample-" />
    </Card>
  )
}

function Keys() {
  const [choices, setChoices] = useState<KeyChoices>(keyChoices)
  const [waiting, setWaiting] = useState<string | null>(null)
  const [said, setSaid] = useState('')
  const change = (changed: KeyChoices, what: string) => {
    changeKeys(changed)
    setChoices(changed)
    setWaiting(null)
    setSaid(what)
  }
  const { [waiting ?? '']: _, ...rest } = choices.keys

  const hear = (action: ReturnType<typeof changeable>[number]) => (event: KeyboardEvent) => {
    if (waiting !== action.name) return
    if (event.key === 'Escape' || event.key === 'Tab') {
      setWaiting(null)
      return
    }
    const key = pressed(event.nativeEvent)
    if (key === null || key === 'enter') return
    event.preventDefault()
    if (!CHARACTER.test(key)) {
      setSaid(t('keyMap.onlyCharacters'))
      return
    }
    const holder = holderOf(key, action.name)
    if (holder) setSaid(t('keyMap.taken', { key: keyLabel(key), what: t(holder.what) }))
    else if (key === action.keys[0]) change({ ...choices, keys: rest }, t('keyMap.kept'))
    else change({ ...choices, keys: { ...choices.keys, [action.name]: key } }, t('keyMap.kept'))
  }

  return (
    <Card title={t('keys.title')} note={t('keyMap.note')}>
      <ChoiceCard
        kind="checkbox"
        checked={choices.single}
        onChange={(event) => change({ ...choices, single: event.target.checked }, t('keyMap.kept'))}
        label={t('keyMap.single')}
        note={t('keyMap.singleNote')}
      />
      {choices.single && (
        <ul className={styles.keys}>
          {changeable().map((action) => {
            const key = keysOf(action)[0] ?? ''
            return (
              <li key={action.name}>
                <span>{t(action.what)}</span>
                <Button
                  small
                  aria-label={t('keyMap.change', { what: t(action.what), key: keyLabel(key) })}
                  aria-pressed={waiting === action.name}
                  onClick={() => {
                    setWaiting(action.name)
                    setSaid(t('keyMap.press', { what: t(action.what) }))
                  }}
                  onBlur={() => setWaiting(null)}
                  onKeyDown={hear(action)}
                >
                  {waiting === action.name ? t('keyMap.waiting') : keyLabel(key)}
                </Button>
              </li>
            )
          })}
        </ul>
      )}
      <p role="status" className="muted small">
        {said}
      </p>
      {Object.keys(choices.keys).length > 0 && (
        <Button onClick={() => change({ ...choices, keys: {} }, t('keyMap.restored'))}>{t('keyMap.restore')}</Button>
      )}
    </Card>
  )
}
