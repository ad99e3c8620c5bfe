// The API, typed from the server's OpenAPI document. Mutations carry the CSRF token. When the session ends in the middle of
// something, the request waits for the person to sign in again and is then sent once more: forms lose nothing.
import createClient from 'openapi-fetch';
import type { components, paths } from './api';
import { ApiError, errorOf, isAbort, Unreachable } from './problem';
import { csrfToken, signInAgain } from './session';

export type Schema<Name extends keyof components['schemas']> = components['schemas'][Name];

const SAFE = new Set(['GET', 'HEAD', 'OPTIONS']);

function withCsrf(request: Request): Request {
  const token = csrfToken();
  if (!SAFE.has(request.method) && token !== undefined) request.headers.set('x-csrf-token', token);
  return request;
}

/** `fetch` with the session's habits. A 401 of an expired session is not an answer, it is a question to the person. */
export async function sessionFetch(request: Request): Promise<Response> {
  const again = request.clone();
  const response = await reach(withCsrf(request));
  if (response.status !== 401) return response;
  const session = await signInAgain();
  return session === undefined ? response : reach(withCsrf(again));
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
    let request = await send();
    if (request.status === 401 && !cancelled && (await signInAgain()) !== undefined) request = await send();
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
