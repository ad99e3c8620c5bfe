// Who is signed in. The session itself is an HTTP-only cookie; here are its CSRF token and what the person may do.
import { createStore } from './store';

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
  | { state: 'out'; reason?: string }
  | { state: 'in'; session: Session }
  /** It ended while the console was in use: forms stay as they are, and a dialog asks to sign in again. */
  | { state: 'expired'; session: Session };

export const sessionState = createStore<SessionState>({ state: 'loading' });

/** Tells other tabs of this browser: the cookie is theirs too. */
const channel = typeof BroadcastChannel === 'undefined' ? undefined : new BroadcastChannel('flotilla-session');
channel?.addEventListener('message', (event: MessageEvent<unknown>) => {
  if (event.data === 'signed-in') void refresh();
  if (event.data === 'signed-out') sessionState.set({ state: 'out' });
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

export function csrfToken(): string | undefined {
  const now = sessionState.get();
  return now.state === 'in' || now.state === 'expired' ? now.session.csrf : undefined;
}

export function can(capability: string): boolean {
  const now = sessionState.get();
  if (now.state !== 'in' && now.state !== 'expired') return false;
  return now.session.capabilities.includes(capability) || now.session.capabilities.includes('*');
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
  const match = /#\/sign-in\/([^\s?&#]+)/.exec(text);
  return decodeURIComponent(match?.[1] ?? text.trim());
}

/** Exchanges a one-time code for a session. Returns why not, in words. */
export async function signIn(text: string): Promise<string | undefined> {
  try {
    const response = await fetch('/api/v1/session', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ code: codeOf(text) }),
    });
    if (!response.ok) {
      const body = (await response.json().catch(() => undefined)) as { detail?: string } | undefined;
      return body?.detail ?? `The server answered ${response.status}.`;
    }
  } catch {
    return 'The server does not answer. It may be restarting: try again in a moment.';
  }
  await refresh();
  if (sessionState.get().state !== 'in') return 'The server took the code, but the browser kept no session: are cookies switched off?';
  channel?.postMessage('signed-in');
  return undefined;
}

export async function signOut(): Promise<void> {
  const csrf = csrfToken();
  try {
    await fetch('/api/v1/session', { method: 'DELETE', headers: csrf === undefined ? {} : { 'x-csrf-token': csrf } });
  } finally {
    channel?.postMessage('signed-out');
    abandon();
  }
}

/** Leaves without asking the server: the person declined to sign in again. */
export function abandon(): void {
  sessionState.set({ state: 'out' });
  settle(undefined);
}
