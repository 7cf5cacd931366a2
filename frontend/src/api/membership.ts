/** What the signed-in person may do in a project. The server decides; this only keeps dead buttons off the screen. */
import { useQuery } from '@tanstack/react-query'
import { sessionQuery } from 'src/api/queries'

export function useMembership(slug: string): {
  name: string
  isMember: boolean
  canManage: boolean
  isOwner: boolean
  canAnnotate: boolean
  canResearch: boolean
  canAdjudicate: boolean
} {
  const user = useQuery(sessionQuery()).data?.user
  const project = user?.projects.find((entry) => entry.slug === slug)
  return {
    name: project?.name ?? slug,
    isMember: project !== undefined,
    canManage: project?.role === 'manager' || project?.role === 'owner',
    isOwner: project?.role === 'owner',
    canResearch: project?.can_research ?? false,
    canAdjudicate: project !== undefined && ['adjudicator', 'manager', 'owner'].includes(project.role),
    canAnnotate: project?.can_annotate ?? false,
  }
}
