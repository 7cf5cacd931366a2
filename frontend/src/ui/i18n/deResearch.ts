/** German strings of the researcher's pages, as `enResearch.ts` has them. */
import { deEvaluations } from 'src/ui/i18n/deEvaluations'
import { deJobs } from 'src/ui/i18n/deJobs'
import { deModels } from 'src/ui/i18n/deModels'
import { dePlayground } from 'src/ui/i18n/dePlayground'
import { deProject } from 'src/ui/i18n/deProject'
import { deStatistics } from 'src/ui/i18n/deStatistics'

export const deResearch = {
  ...deProject,
  ...deStatistics,
  ...deJobs,
  ...deModels,
  ...deEvaluations,
  ...dePlayground,
}
