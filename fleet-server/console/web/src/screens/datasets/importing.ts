// Files on their way to the server. They live outside the screens: going elsewhere in the console and coming back finds the
// upload as it goes on. One per dataset, as the server has it.
import { api, ApiError, Unreachable, unwrap, upload } from '../../lib/client';
import type { Upload } from '../../lib/client';
import { isAbort } from '../../lib/problem';
import { createStore } from '../../lib/store';
import { changed } from './data';
import type { ImportReport, Split } from './data';

export interface Transfer {
  /** What the import is called, chosen here, so that it can be asked for while it is being sent. */
  id: string;
  file: string;
  slice: string;
  size: number;
  sent: number;
  state: 'sending' | 'reading' | 'cancelling' | 'finished' | 'failed' | 'cancelled';
  report?: ImportReport;
  error?: unknown;
}

export interface Chosen {
  file: File;
  header: readonly string[];
}

/** By the dataset's id. */
export const transfers = createStore<ReadonlyMap<string, Transfer>>(new Map());
/** Files that are chosen and not sent yet, by the dataset's id or (before there is one) name. */
export const chosen = createStore<ReadonlyMap<string, Chosen>>(new Map());

const running = new Map<string, Upload<ImportReport>>();

export function isActive(transfer: Transfer | undefined): boolean {
  return transfer !== undefined && (transfer.state === 'sending' || transfer.state === 'reading' || transfer.state === 'cancelling');
}

export function choose(dataset: string, file: Chosen | undefined): void {
  chosen.set((before) => {
    const next = new Map(before);
    if (file === undefined) next.delete(dataset);
    else next.set(dataset, file);
    return next;
  });
}

/** A UUID of version 7: random, and in the order of time, which is the order of the server's list. */
export function newImportId(now = Date.now(), random: Uint8Array = crypto.getRandomValues(new Uint8Array(10))): string {
  const time = now.toString(16).padStart(12, '0').slice(-12);
  const rest = [...random].map((byte, index) => (index === 0 ? (byte & 0x0f) | 0x70 : index === 2 ? (byte & 0x3f) | 0x80 : byte).toString(16).padStart(2, '0')).join('');
  return `${time.slice(0, 8)}-${time.slice(8)}-${rest.slice(0, 4)}-${rest.slice(4, 8)}-${rest.slice(8)}`;
}

function put(dataset: string, patch: Partial<Transfer>): void {
  transfers.set((before) => {
    const now = before.get(dataset);
    return now === undefined ? before : new Map(before).set(dataset, { ...now, ...patch });
  });
}

export function forget(dataset: string): void {
  transfers.set((before) => {
    const next = new Map(before);
    next.delete(dataset);
    return next;
  });
}

function warn(event: BeforeUnloadEvent): void {
  event.preventDefault();
}

/** The error as the import itself remembers it: a connection that the server closed early brings no answer. */
async function reasonOf(id: string, error: unknown): Promise<unknown> {
  if (!(error instanceof Unreachable)) return error;
  try {
    const said = await unwrap(api.GET('/api/v1/imports/{id}', { params: { path: { id } } }));
    if (said.state === 'failed' && said.error !== undefined && said.error !== null)
      return new ApiError({ title: 'Nothing was imported', status: 422, detail: said.error });
  } catch {
    // The first error says enough.
  }
  return error;
}

export async function start(dataset: string, file: File, options: { slice: string; split: '' | Split }): Promise<void> {
  if (isActive(transfers.get().get(dataset))) return;
  const id = newImportId();
  transfers.set((before) => new Map(before).set(dataset, { id, file: file.name, slice: options.slice, size: file.size, sent: 0, state: 'sending' }));
  if (running.size === 0) addEventListener('beforeunload', warn);
  const query = new URLSearchParams({ import: id, slice: options.slice, ...(options.split === '' ? {} : { split: options.split }) });
  const transfer = upload<ImportReport>(`/api/v1/datasets/${encodeURIComponent(dataset)}/imports?${query.toString()}`, file, {
    contentType: 'text/csv',
    onProgress(sent) {
      const now = transfers.get().get(dataset);
      if (now?.state !== 'sending') return;
      put(dataset, { sent });
      if (sent >= file.size) put(dataset, { state: 'reading' });
    },
  });
  running.set(dataset, transfer);
  try {
    const report = await transfer.done;
    put(dataset, { state: 'finished', report, sent: file.size });
    choose(dataset, undefined);
  } catch (error) {
    const gone = isAbort(error) || transfers.get().get(dataset)?.state === 'cancelling';
    put(dataset, gone ? { state: 'cancelled' } : { state: 'failed', error: await reasonOf(id, error) });
  } finally {
    running.delete(dataset);
    if (running.size === 0) removeEventListener('beforeunload', warn);
    void changed();
  }
}

/** Stops sending, and tells the server: closing the connection alone would do, but this says who it was. */
export async function cancel(dataset: string): Promise<void> {
  const now = transfers.get().get(dataset);
  if (now === undefined || (now.state !== 'sending' && now.state !== 'reading')) return;
  put(dataset, { state: 'cancelling' });
  try {
    await cancelImport(now.id);
  } catch {
    // It may not have begun, or has just ended; closing the connection is what counts.
  }
  running.get(dataset)?.cancel();
}

export async function cancelImport(id: string): Promise<void> {
  await unwrap(api.DELETE('/api/v1/imports/{id}', { params: { path: { id } } }));
  await changed();
}
