// Which of the faces the console shows: waiting, no server, sign-in, or the shell with a dialog over it when a session ends.
import { QueryClientProvider } from '@tanstack/preact-query';
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import { useAfter } from '../lib/hooks';
import type { LiveState } from '../lib/live';
import { queryClient } from '../lib/query';
import { begin, sessionState } from '../lib/session';
import type { Store } from '../lib/store';
import { useStore } from '../lib/store';
import { SignInAgain, SignInScreen, StillSignedIn } from './sign-in';
import { ServerGone, Shell } from './shell';

const RETRY_MS = 3000;

export function App({ live, onSignedIn }: { live: Store<LiveState>; onSignedIn(): void }): JSX.Element | null {
  const now = useStore(sessionState);
  const slow = useAfter(300, now.state === 'loading');
  useEffect(() => {
    if (now.state === 'in') onSignedIn();
    if (now.state === 'out') queryClient.clear();
  }, [now.state]);
  useEffect(() => {
    if (now.state !== 'unreachable') return undefined;
    const timer = setInterval(() => void begin(), RETRY_MS);
    return () => clearInterval(timer);
  }, [now.state]);
  if (now.state === 'loading') return slow ? <main class="sign-in" aria-busy="true" aria-label="Loading" /> : null;
  if (now.state === 'unreachable') return <ServerGone onRetry={() => void begin()} />;
  if (now.state === 'out') return <SignInScreen reason={now.reason} />;
  return (
    <QueryClientProvider client={queryClient}>
      {/* Nothing that was on the screen of one person stays for another. */}
      <Shell key={now.session.actor} session={now.session} live={live} />
      <SignInAgain />
      <StillSignedIn />
    </QueryClientProvider>
  );
}
