// The API, typed from the server's OpenAPI document. Mutations carry the CSRF token. When the session ends in the middle of
// something, the request waits for the person to sign in again and is then sent once more: forms lose nothing. What is created
// carries an `Idempotency-Key` that stays the same until there is an answer: sent twice, it is made once.
import createClient from 'openapi-fetch';
import type { components, paths } from './api';
import { BACKGROUND_HEADER, isAttended } from './activity';
import { ApiError, errorOf, isAbort, OtherPerson, Unreachable } from './problem';
import { actor, csrfToken, signInAgain } from './session';

export type Schema<Name extends keyof components['schemas']> = components['schemas'][Name];

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS']);

function prepared(request: Request): Request {
  const token = csrfToken();
  if (SAFE.has(request.method)) {
    if (!isAttended()) request.headers.set(BACKGROUND_HEADER, '1');
  } else if (token !== undefined) request.headers.set('x-csrf-token', token);
  return request;
}

/** Keys of what the server has not answered to yet, by what was sent. The oldest go first when it is full. */
const unanswered = new Map<string, string>();
const MOST_UNANSWERED = 64;
/**
 * Need no key: what asks by POST and makes nothing, where one that was given up is not waited for; and labels by hand, where twice is
 * once, and an old answer would stand for a label that was taken back meanwhile.
 */
const KEYLESS = /^\/api\/v1\/(rollouts\/preview|datasets\/[^/]+\/annotations)$/;

/** Names an attempt to create something. What goes out as the page closes cannot wait to be read, and needs no key. */
async function attemptOf(request: Request): Promise<string | undefined> {
  if (request.method !== 'POST' || request.keepalive || request.headers.get('content-type') !== 'application/json') return undefined;
  if (KEYLESS.test(new URL(request.url).pathname)) return undefined;
  return `${actor() ?? ''} ${request.url}\n${await request.clone().text()}`;
}

/** `crypto.randomUUID` is not there on plain HTTP. */
function keyOf(attempt: string): string {
  const known = unanswered.get(attempt);
  if (known !== undefined) return known;
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  unanswered.set(attempt, key);
  const oldest = unanswered.keys().next();
  if (unanswered.size > MOST_UNANSWERED && oldest.done !== true) unanswered.delete(oldest.value);
  return key;
}

/** Says what became of the request. `Retry-After`: it is under way, or was not looked at. */
function isAnswer(response: Response): boolean {
  return response.status < 500 && !response.headers.has('retry-after');
}

/** Asks to sign in again; true when the same person did, who then goes on with what was being sent. */
async function isBack(sender: string | undefined): Promise<boolean> {
  const session = await signInAgain();
  if (session === undefined) return false;
  if (sender !== undefined && session.actor !== sender) throw new OtherPerson();
  return true;
}

/** `fetch` with the session's habits. A 401 of an expired session is not an answer, it is a question to the person. */
export async function sessionFetch(request: Request): Promise<Response> {
  const sender = actor();
  const attempt = request.method === 'POST' ? await attemptOf(request) : undefined;
  if (attempt !== undefined) request.headers.set('idempotency-key', keyOf(attempt));
  const again = request.clone();
  let response = await reach(prepared(request));
  if (response.status === 401 && (await isBack(sender))) response = await reach(prepared(again));
  if (attempt !== undefined && isAnswer(response)) unanswered.delete(attempt);
  return response;
}

async function reach(request: Request): Promise<Response> {
  try {
    return await fetch(request);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Unreachable();
  }
}

/** `api.GET('/api/v1/devices/{id}', { params: { path: { id } }, signal })`. Wrap it in `unwrap`. */
export const api = createClient<paths>({
  baseUrl: typeof location === 'undefined' ? 'http://localhost' : location.origin,
  fetch: sessionFetch,
});

/** The data of an answer; throws `ApiError` with the server's words when it is not one. */
export async function unwrap<T>(
  answer: Promise<{ data?: T; error?: unknown; response: Response }>,
): Promise<NonNullable<T>> {
  const { data, error, response } = await answer;
  if (!response.ok) throw errorOf(response, error);
  return data as NonNullable<T>;
}

export interface Upload<T> {
  done: Promise<T>;
  cancel(): void;
}

/**
 * Streams a file from disk as the body, with progress. `fetch` cannot report what has been sent, so this is an
 * `XMLHttpRequest`; the browser reads the file piece by piece.
 */
export function upload<T>(
  path: string,
  file: Blob,
  options: { method?: string; contentType?: string; onProgress?(sent: number, total: number): void } = {},
): Upload<T> {
  let current: XMLHttpRequest | undefined;
  let cancelled = false;
  const send = (): Promise<XMLHttpRequest> =>
    new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      current = request;
      request.open(options.method ?? 'POST', path);
      request.setRequestHeader('accept', 'application/json');
      request.setRequestHeader('content-type', options.contentType ?? 'application/octet-stream');
      const token = csrfToken();
      if (token !== undefined) request.setRequestHeader('x-csrf-token', token);
      request.upload.onprogress = (event) => options.onProgress?.(event.loaded, event.lengthComputable ? event.total : file.size);
      request.onload = () => resolve(request);
      request.onerror = () => reject(new Unreachable());
      request.onabort = () => reject(new DOMException('cancelled', 'AbortError'));
      request.send(file);
    });
  const finish = async (): Promise<T> => {
    const sender = actor();
    let request = await send();
    if (request.status === 401 && !cancelled && (await isBack(sender))) request = await send();
    let body: unknown;
    try {
      body = JSON.parse(request.responseText);
    } catch {
      body = undefined;
    }
    if (request.status >= 200 && request.status < 300) return body as T;
    throw errorOf(new Response(null, { status: Math.max(200, request.status), statusText: request.statusText }), body);
  };
  return {
    done: finish(),
    cancel() {
      cancelled = true;
      current?.abort();
    },
  };
}

export { ApiError, Unreachable };
