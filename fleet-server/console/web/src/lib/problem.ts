// What went wrong, in the server's words (RFC 9457) or in ours when there is no answer.

export interface ProblemItem {
  /** A field, a line, a column. */
  place: string;
  message: string;
}

export interface ProblemBody {
  type?: string;
  title: string;
  status: number;
  detail: string;
  code?: string | null;
  instance?: string | null;
  errors?: ProblemItem[] | null;
}

/** The server answered, and refused or failed. */
export class ApiError extends Error {
  readonly problem: ProblemBody;

  constructor(problem: ProblemBody) {
    super(problem.detail === '' ? problem.title : problem.detail);
    this.name = 'ApiError';
    this.problem = problem;
  }

  get status(): number {
    return this.problem.status;
  }

  get code(): string | undefined {
    return this.problem.code ?? undefined;
  }
}

/** No answer: the server is gone, restarting, or the network is. */
export class Unreachable extends Error {
  constructor() {
    super('The server does not answer. It may be restarting; the page tries again by itself.');
    this.name = 'Unreachable';
  }
}

/** The session ended, and somebody else signed in before the request could be sent again. It was not. */
export class OtherPerson extends Error {
  constructor() {
    super('Somebody else has signed in: this was not sent.');
    this.name = 'OtherPerson';
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}

function isProblem(value: unknown): value is ProblemBody {
  return typeof value === 'object' && value !== null && 'title' in value && 'status' in value;
}

/** The error of an answer whose body may be a problem, or anything a proxy in between made of it. */
export function errorOf(response: Response, body: unknown): ApiError {
  if (isProblem(body)) return new ApiError({ ...body, detail: body.detail ?? '' });
  return new ApiError({
    title: response.statusText === '' ? `HTTP ${response.status}` : response.statusText,
    status: response.status,
    detail: `The server answered ${response.status} without saying why.`,
  });
}

/** One sentence for a person. */
export function explain(error: unknown): string {
  if (error instanceof Error && error.message !== '') return error.message;
  return 'Something failed without saying why.';
}
