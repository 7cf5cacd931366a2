/** Importing this brings the strings of its pages. */
import { enJobs } from 'src/ui/i18n/enJobs'
import { addMessages } from 'src/ui/i18n/t'

addMessages(enJobs)
