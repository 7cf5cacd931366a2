import { t } from 'src/ui/i18n/t'
import { keyChoices } from 'src/ui/keys/choices'
import styles from 'src/ui/keys/Keys.module.css'
import { type Action, CHARACTER, KEYMAP, keyLabel, keysOf, type Scope } from 'src/ui/keys/keymap'
import { Dialog } from 'src/ui/widgets/Dialog'

/** The key beside what a button says; nothing where that key does not act. `isLabel`: it is all that the button says. */
export function KeyCap({ name, isLabel = false }: { name: string; isLabel?: boolean }) {
  if (!isLabel && (name === '' || (CHARACTER.test(name) && !keyChoices().single))) return null
  return (
    <span className={`${styles.key} keycap`} aria-hidden="true">
      {keyLabel(name)}
    </span>
  )
}

/** The keys of one action, or first and last of many that mean the same. */
function caps(group: Action[]): readonly string[] {
  if (group.length < 3) return group.flatMap(keysOf)
  return [group[0], group.at(-1)].flatMap((action) => (action && keysOf(action)[0]) ?? [])
}

export function KeySheet({ scopes, onClose }: { scopes: readonly Scope[]; onClose: () => void }) {
  const shown = scopes.flatMap((scope) => KEYMAP.filter((action) => action.scope === scope))
  const actions = [...new Set(shown.map(({ what }) => what))].map((what) => shown.filter((one) => one.what === what))
  return (
    <Dialog title={t('keys.title')} onClose={onClose}>
      <dl className={styles.list}>
        {actions.map((group) => (
          <div key={group[0]?.name} style={{ display: 'contents' }}>
            <dt className={styles.keys}>
              {caps(group).map((key) => (
                <kbd key={key} className={styles.key}>
                  {keyLabel(key)}
                </kbd>
              ))}
            </dt>
            <dd>{group[0] && t(group[0].what)}</dd>
          </div>
        ))}
      </dl>
      <p className="muted small">{t('keys.note')}</p>
    </Dialog>
  )
}
