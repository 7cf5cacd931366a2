/** Importing this brings the strings of the statistics pages. */
import { enStatistics } from 'src/ui/i18n/enStatistics'
import { addMessages } from 'src/ui/i18n/t'

addMessages(enStatistics)
