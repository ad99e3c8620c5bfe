// Files on their way to the server. They live outside the screens: going elsewhere in the console and coming back finds the
// upload as it goes on, and what is chosen as it was. One per dataset, as the server has it, and per person: whoever signs in next
// in the same tab sees nothing of it.
import { api, ApiError, Unreachable, unwrap, upload } from '../../lib/client';
import type { Upload } from '../../lib/client';
import { isAbort } from '../../lib/problem';
import { actor } from '../../lib/session';
import { createStore, useStore } from '../../lib/store';
import { changed } from './data';
import type { Import, ImportReport, Split } from './data';

export interface Transfer {
  /** What the import is called, chosen here, so that it can be asked for while it is being sent. */
  id: string;
  file: string;
  slice: string;
  size: number;
  sent: number;
  /**
   * `following`: the connection was lost, and the server goes on with it; `unknown`: it was lost, and nobody answers what became of
   * the import. The others are known from the server.
   */
  state: 'sending' | 'reading' | 'cancelling' | 'following' | 'finished' | 'failed' | 'cancelled' | 'unknown';
  report?: ImportReport;
  error?: unknown;
}

export interface Picked {
  file: File;
  header: readonly string[];
}

/** What is to be imported, and where to. */
export interface Plan {
  picked: Picked | undefined;
  slice: string;
  split: '' | Split;
}

const NO_PLAN: Plan = { picked: undefined, slice: 'import', split: '' };

/** By person and the dataset's id. */
const transfers = createStore<ReadonlyMap<string, Transfer>>(new Map());
const plans = createStore<ReadonlyMap<string, Plan>>(new Map());
const running = new Map<string, Upload<ImportReport>>();

function mine(dataset: string): string {
  return `${actor() ?? ''} ${dataset}`;
}

export function transferOf(dataset: string): Transfer | undefined {
  return transfers.get().get(mine(dataset));
}

export function useTransfer(dataset: string): Transfer | undefined {
  return useStore(transfers).get(mine(dataset));
}

export function planOf(dataset: string): Plan {
  return plans.get().get(mine(dataset)) ?? NO_PLAN;
}

export function usePlan(dataset: string): Plan {
  return useStore(plans).get(mine(dataset)) ?? NO_PLAN;
}

/** Changes what is to be imported; `picked` alone, where it goes stays: another file is often the same one, corrected. */
export function plan(dataset: string, patch: Partial<Plan>): void {
  plans.set((before) => new Map(before).set(mine(dataset), { ...planOf(dataset), ...patch }));
}

export function isActive(transfer: Transfer | undefined): boolean {
  return transfer !== undefined && ['sending', 'reading', 'cancelling', 'following'].includes(transfer.state);
}

/** A UUID of version 7: random, and in the order of time, which is the order of the server's list. */
export function newImportId(now = Date.now(), random: Uint8Array = crypto.getRandomValues(new Uint8Array(10))): string {
  const time = now.toString(16).padStart(12, '0').slice(-12);
  const rest = [...random].map((byte, index) => (index === 0 ? (byte & 0x0f) | 0x70 : index === 2 ? (byte & 0x3f) | 0x80 : byte).toString(16).padStart(2, '0')).join('');
  return `${time.slice(0, 8)}-${time.slice(8)}-${rest.slice(0, 4)}-${rest.slice(4, 8)}-${rest.slice(8)}`;
}

/** Says more of an import, as long as no other one has taken its place. */
function put(key: string, id: string, patch: Partial<Transfer>): void {
  transfers.set((before) => {
    const now = before.get(key);
    return now?.id !== id ? before : new Map(before).set(key, { ...now, ...patch });
  });
}

function without<T>(all: ReadonlyMap<string, T>, key: string): ReadonlyMap<string, T> {
  const next = new Map(all);
  next.delete(key);
  return next;
}

export function forget(dataset: string): void {
  transfers.set((before) => without(before, mine(dataset)));
}

function warn(event: BeforeUnloadEvent): void {
  event.preventDefault();
}

/** Whether this answer, or none, leaves open what became of an import: the server may have gone on with it. */
function isOpen(error: unknown): boolean {
  return error instanceof Unreachable || (error instanceof ApiError && error.status >= 500);
}

/** How often an import that nothing else tells of is asked for. */
const FOLLOW_MS = 1000;

/** Asks the server what became of an import, until that is known or nobody answers. `lost`: how its own connection ended. */
async function settle(key: string, id: string, lost?: unknown): Promise<void> {
  while (transfers.get().get(key)?.id === id) {
    let said: Import;
    try {
      said = await unwrap(api.GET('/api/v1/imports/{id}', { params: { path: { id } } }));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) put(key, id, { state: 'unknown', error: error instanceof Unreachable ? new Error('The connection was lost, and the server does not answer.') : error });
      else if (isAbort(lost)) put(key, id, { state: 'cancelled' });
      else put(key, id, { state: 'failed', error: lost instanceof ApiError ? lost : new Error('The connection was lost before the server began with it.') });
      return;
    }
    if (said.state === 'finished' && said.report !== undefined && said.report !== null) return finish(key, id, said.report);
    if (said.state === 'cancelled') return put(key, id, { state: 'cancelled' });
    if (said.state === 'failed') return put(key, id, { state: 'failed', error: new ApiError({ title: 'Nothing was imported', status: 422, detail: said.error ?? '' }) });
    put(key, id, { state: 'following' });
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
  }
}

function finish(key: string, id: string, report: ImportReport): void {
  if (transfers.get().get(key)?.id !== id) return;
  put(key, id, { state: 'finished', report });
  plans.set((before) => without(before, key));
}

/** Once more, after nobody answered. */
export async function askAgain(dataset: string): Promise<void> {
  const now = transferOf(dataset);
  if (now?.state !== 'unknown') return;
  await settle(mine(dataset), now.id);
  void changed();
}

export async function start(dataset: string, file: File, options: { slice: string; split: '' | Split }): Promise<void> {
  const key = mine(dataset);
  if (isActive(transfers.get().get(key))) return;
  const id = newImportId();
  transfers.set((before) => new Map(before).set(key, { id, file: file.name, slice: options.slice, size: file.size, sent: 0, state: 'sending' }));
  if (running.size === 0) addEventListener('beforeunload', warn);
  const query = new URLSearchParams({ import: id, slice: options.slice, ...(options.split === '' ? {} : { split: options.split }) });
  const transfer = upload<ImportReport>(`/api/v1/datasets/${encodeURIComponent(dataset)}/imports?${query.toString()}`, file, {
    contentType: 'text/csv',
    onProgress(sent) {
      const now = transfers.get().get(key);
      if (now?.state !== 'sending') return;
      put(key, id, { sent });
      if (sent >= file.size) put(key, id, { state: 'reading' });
    },
  });
  running.set(key, transfer);
  let lost: unknown;
  try {
    const report = await transfer.done;
    put(key, id, { sent: file.size });
    finish(key, id, report);
  } catch (error) {
    lost = error;
  } finally {
    running.delete(key);
    if (running.size === 0) removeEventListener('beforeunload', warn);
  }
  const { state } = transfers.get().get(key) ?? {};
  // Cancelling may come too late, and without an answer nobody knows what became of it: the server says.
  if (lost !== undefined && state !== 'cancelled') {
    if (state === 'cancelling' || isAbort(lost) || isOpen(lost)) await settle(key, id, lost);
    else put(key, id, { state: 'failed', error: lost });
  }
  void changed();
}

/** Stops sending, and tells the server: closing the connection alone would do, but this says who it was. */
export async function cancel(dataset: string): Promise<void> {
  const key = mine(dataset);
  const now = transfers.get().get(key);
  if (now === undefined || !isActive(now) || now.state === 'cancelling') return;
  const { id } = now;
  const sending = running.get(key);
  put(key, id, { state: 'cancelling' });
  try {
    await end(id);
    put(key, id, { state: 'cancelled' });
  } catch {
    // It may not have begun, or has just ended. Closing the connection is what counts; without one, whoever follows it goes on.
  }
  sending?.cancel();
  void changed();
}

export async function cancelImport(id: string): Promise<void> {
  await end(id);
  await changed();
}

async function end(id: string): Promise<void> {
  await unwrap(api.DELETE('/api/v1/imports/{id}', { params: { path: { id } } }));
}
