/** The product's mark: two strands, A and B. */
export function Mark({ size = 24 }: { size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 32 32"
      fill="none"
      strokeWidth="4.2"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      <path d="M4 8l6 16 5-13" stroke="var(--a)" />
      <path d="M17 11l5 13 6-16" stroke="var(--b)" />
    </svg>
  )
}
