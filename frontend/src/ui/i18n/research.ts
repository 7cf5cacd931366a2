/** Importing this brings the strings of the researcher's pages. */
import { enProject } from 'src/ui/i18n/enProject'
import { addMessages } from 'src/ui/i18n/t'

addMessages(enProject)
