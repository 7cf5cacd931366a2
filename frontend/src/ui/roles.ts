import { t } from 'src/ui/i18n/t'

export const ROLES = ['annotator', 'adjudicator', 'viewer', 'manager', 'owner'] as const
export const roleOptions = (): [string, string][] => ROLES.map((role) => [role, t(`role.${role}`)])
