/** German strings of the researcher's pages, as `enResearch.ts` has them. */
import { deData } from 'src/ui/i18n/deData'
import { deEvaluations } from 'src/ui/i18n/deEvaluations'
import { deExperiments } from 'src/ui/i18n/deExperiments'
import { deJobs } from 'src/ui/i18n/deJobs'
import { deModels } from 'src/ui/i18n/deModels'
import { dePlayground } from 'src/ui/i18n/dePlayground'
import { deProject } from 'src/ui/i18n/deProject'
import { deSnapshots } from 'src/ui/i18n/deSnapshots'
import { deStatistics } from 'src/ui/i18n/deStatistics'

export const deResearch = {
  ...deProject,
  ...deData,
  ...deSnapshots,
  ...deStatistics,
  ...deJobs,
  ...deModels,
  ...deEvaluations,
  ...deExperiments,
  ...dePlayground,
}
