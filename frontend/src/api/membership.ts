/** What the signed-in person may do in a project. The server decides; this only keeps dead buttons off the screen. */
import { useQuery } from '@tanstack/react-query'
import { sessionQuery } from 'src/api/queries'

export function useMembership(slug: string): { name: string; canManage: boolean; canAnnotate: boolean } {
  const user = useQuery(sessionQuery()).data?.user
  const project = user?.projects.find((entry) => entry.slug === slug)
  return {
    name: project?.name ?? slug,
    canManage: project?.role === 'manager' || project?.role === 'owner',
    canAnnotate: project?.can_annotate ?? false,
  }
}
