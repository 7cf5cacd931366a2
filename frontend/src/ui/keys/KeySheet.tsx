import { t } from 'src/ui/i18n/t'
import styles from 'src/ui/keys/Keys.module.css'
import { KEYMAP, keyLabel, type Scope } from 'src/ui/keys/keymap'
import { Dialog } from 'src/ui/widgets/Dialog'

export function KeyCap({ name }: { name: string }) {
  return (
    <span className={`${styles.key} keycap`} aria-hidden="true">
      {keyLabel(name)}
    </span>
  )
}

export function KeySheet({ scopes, onClose }: { scopes: readonly Scope[]; onClose: () => void }) {
  const actions = KEYMAP.filter((action) => scopes.includes(action.scope))
  return (
    <Dialog title={t('keys.title')} onClose={onClose}>
      <dl className={styles.list}>
        {actions.map((action) => (
          <div key={action.name} style={{ display: 'contents' }}>
            <dt className={styles.keys}>
              {action.keys.map((key) => (
                <kbd key={key} className={styles.key}>
                  {keyLabel(key)}
                </kbd>
              ))}
            </dt>
            <dd>{t(action.what)}</dd>
          </div>
        ))}
      </dl>
      <p className="muted small">{t('keys.note')}</p>
    </Dialog>
  )
}
