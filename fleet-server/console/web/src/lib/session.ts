// Who is signed in. The session itself is an HTTP-only cookie; here are its CSRF token and what the person may do.
import { plural } from './format';
import { createStore } from './store';
import { saveAll } from './unsaved';

export interface Session {
  actor: string;
  name: string;
  roles: string[];
  capabilities: string[];
  csrf: string;
  expires_at: string;
}

export type SessionState =
  | { state: 'loading' }
  | { state: 'unreachable' }
  /** `reason`: why a sign-in link did not lead in. */
  | { state: 'out'; reason?: string }
  | { state: 'in'; session: Session }
  /** It ended while the console was in use: forms stay as they are, and a dialog asks to sign in again. */
  | { state: 'expired'; session: Session };

export const sessionState = createStore<SessionState>({ state: 'loading' });

/** Tells other tabs of this browser: the cookie is theirs too. */
const channel = typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel('flotilla-session');
channel?.addEventListener('message', (event: MessageEvent<unknown>) => {
  if (event.data === 'signed-in') void refresh();
  if (event.data === 'signed-out') abandon();
});

let waiting: ((session: Session | undefined) => void)[] = [];

function settle(session: Session | undefined): void {
  const resolved = waiting;
  waiting = [];
  for (const resolve of resolved) resolve(session);
}

/** Called by the client on `session-expired`: resolves when the person has signed in again, or declined. */
export function signInAgain(): Promise<Session | undefined> {
  const now = sessionState.get();
  if (now.state === 'out' || now.state === 'loading') return Promise.resolve(undefined);
  if (now.state === 'in') sessionState.set({ state: 'expired', session: now.session });
  return new Promise((resolve) => waiting.push(resolve));
}

function present(): Session | undefined {
  const now = sessionState.get();
  return now.state === 'in' || now.state === 'expired' ? now.session : undefined;
}

export function csrfToken(): string | undefined {
  return present()?.csrf;
}

/** Whose doing it is now. */
export function actor(): string | undefined {
  return present()?.actor;
}

export function can(capability: string): boolean {
  const capabilities = present()?.capabilities ?? [];
  return capabilities.includes(capability) || capabilities.includes('*');
}

/** Reads the session that the cookie stands for. */
export async function refresh(): Promise<void> {
  let response: Response;
  try {
    response = await fetch('/api/v1/session', { headers: { accept: 'application/json' } });
  } catch {
    if (sessionState.get().state === 'loading') sessionState.set({ state: 'unreachable' });
    return;
  }
  if (response.ok) {
    enter((await response.json()) as Session);
    return;
  }
  if (response.status >= 500) {
    if (sessionState.get().state === 'loading') sessionState.set({ state: 'unreachable' });
    return;
  }
  // An expired dialog stays open with what is behind it; only a first load goes to the sign-in screen.
  if (sessionState.get().state !== 'expired') sessionState.set({ state: 'out' });
}

function enter(session: Session): void {
  sessionState.set({ state: 'in', session });
  settle(session);
}

/** The code of a sign-in link, or the whole link as somebody pastes it. */
export function codeOf(text: string): string {
  const code = /#\/sign-in\/([^\s?&#]+)/.exec(text)?.[1] ?? text.trim();
  try {
    return decodeURIComponent(code);
  } catch {
    // No link of ours; the server says so.
    return code;
  }
}

interface Failure {
  why: string;
  /** False: the code may still be good. */
  answered: boolean;
}

/** Exchanges a one-time code for a session. */
async function exchange(code: string): Promise<Failure | undefined> {
  try {
    const response = await fetch('/api/v1/session', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ code }),
    });
    if (!response.ok) return { why: await wordsOf(response), answered: response.status < 500 };
  } catch {
    return { why: NO_ANSWER, answered: false };
  }
  await refresh();
  if (sessionState.get().state !== 'in') return { why: 'The server took the code, but the browser kept no session: are cookies switched off?', answered: true };
  channel?.postMessage('signed-in');
  return undefined;
}

const NO_ANSWER = 'The server does not answer. It may be restarting: try again in a moment.';

async function wordsOf(response: Response): Promise<string> {
  const body = (await response.json().catch(() => undefined)) as { detail?: string } | undefined;
  return body?.detail ?? `The server answered ${response.status}.`;
}

/** With a code or a link as somebody pastes it. Returns why not, in words. */
export async function signIn(text: string): Promise<string | undefined> {
  return (await exchange(codeOf(text)))?.why;
}

/** The code of a link that was opened, for as long as the server has not answered to it. */
let opened: string | undefined;

/**
 * Goes in: by the sign-in link that was opened, if there is one, else with the session that the browser has. A link that
 * leads nowhere (it was used before) leaves whoever is signed in where they are; then this returns why.
 */
export async function begin(link?: string): Promise<string | undefined> {
  if (link !== undefined) opened = codeOf(link);
  if (opened === undefined) {
    await refresh();
    return undefined;
  }
  const failure = await exchange(opened);
  if (failure === undefined || failure.answered) opened = undefined;
  if (failure === undefined) return undefined;
  await refresh();
  const { state } = sessionState.get();
  if (state === 'out') sessionState.set({ state, reason: failure.why });
  return state === 'in' || state === 'expired' ? failure.why : undefined;
}

/** Why signing out has not happened: the person is still signed in, and has to know. */
export interface StillIn {
  why: string;
  /** Signing out is possible all the same. */
  anyway: boolean;
}

export const stillIn = createStore<StillIn | undefined>(undefined);

/** For so long the server may take to end the session. */
const PATIENCE_MS = 15_000;

/** Sends what is unsent, ends the session, and leaves only when the server says that it has ended. */
export async function signOut(anyway = false): Promise<void> {
  stillIn.set(undefined);
  const left = await saveAll();
  if (left > 0 && !anyway) {
    const [are, stay] = left === 1 ? ['is', 'stays'] : ['are', 'stay'];
    stillIn.set({ why: `${plural(left, 'label')} ${are} not with the server yet, and ${stay} in this tab until you sign in here again.`, anyway: true });
    return;
  }
  const csrf = csrfToken();
  try {
    const response = await fetch('/api/v1/session', {
      method: 'DELETE',
      headers: csrf === undefined ? {} : { 'x-csrf-token': csrf },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (response.status !== 204 && response.status !== 401) {
      stillIn.set({ why: await wordsOf(response), anyway: false });
      return;
    }
  } catch {
    stillIn.set({ why: NO_ANSWER, anyway: false });
    return;
  }
  channel?.postMessage('signed-out');
  abandon();
}

/** Leaves without asking the server: the person declined to sign in again. */
export function abandon(): void {
  sessionState.set({ state: 'out' });
  settle(undefined);
}
