/** One error type for every failed call. Screens branch on `code`, never on the message. */

export type Details = Record<string, unknown>

export class ApiError extends Error {
  /** 0 when no answer came: offline, or cut. */
  readonly status: number
  readonly code: string
  readonly details: Details
  /** Seconds the server asked to wait, where it did. */
  readonly retryAfter: number | null
  /** The server's request id: what a person quotes when asking for help. */
  readonly reference: string | null

  constructor(init: {
    status: number
    code: string
    message: string
    details?: Details
    retryAfter?: number | null
    reference?: string | null
  }) {
    super(init.message)
    this.name = 'ApiError'
    this.status = init.status
    this.code = init.code
    this.details = init.details ?? {}
    this.retryAfter = init.retryAfter ?? null
    this.reference = init.reference ?? null
  }
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
}

/** An answer that is not ours (a proxy's page, an empty body) still becomes an error with a code. */
export function fromAnswer(status: number, body: unknown, headers: Headers): ApiError {
  const { code, message, details } = record(body)
  const wait = Number(headers.get('Retry-After'))
  return new ApiError({
    status,
    code: typeof code === 'string' ? code : `http_${status}`,
    message: typeof message === 'string' ? message : '',
    details: record(details),
    retryAfter: Number.isFinite(wait) && wait > 0 ? wait : null,
    reference: headers.get('X-Request-ID'),
  })
}

export function networkError(): ApiError {
  return new ApiError({ status: 0, code: 'network', message: '' })
}

/** Worth sending again unchanged: no answer, too many requests, or a fault of the server. */
export function isTemporary(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 0 || error.status === 429 || error.status >= 500)
}

/** `details` as messages by field: `{"optim.learning_rate": ["must be positive"]}`. */
export function fieldErrors(error: unknown): Record<string, string> {
  if (!(error instanceof ApiError)) return {}
  const fields: Record<string, string> = {}
  for (const [field, value] of Object.entries(error.details)) {
    const texts = Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [value]
    if (texts.length > 0 && typeof texts[0] === 'string') fields[field] = texts.join(' ')
  }
  return fields
}
