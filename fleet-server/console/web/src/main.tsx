// Entry: theme, router, keys, session and live stream, then the app.
import { render } from 'preact';
import { App } from './app/app';
import { watchActivity } from './lib/activity';
import { listen, watchSingleKeys } from './lib/keys';
import { Live, setLive } from './lib/live';
import { browserPlatform } from './lib/live-browser';
import { keepErrors, queryClient } from './lib/query';
import { changed, fetchAgain } from './lib/refetch';
import { navigate, startRouter } from './lib/router';
import { begin, sessionState } from './lib/session';
import { watchSystemTheme } from './lib/theme';
import { watchLeaving } from './lib/unsaved';
import { screens } from './screens/registry';
import { toast } from './ui/toast';
import './styles/tokens.css';
import './styles/base.css';
import './styles/ui.css';
import './styles/shell.css';

/** The code of a sign-in link stands behind the hash, which browsers do not send. It leaves the address at once. */
function takeLink(): string | undefined {
  const { hash, pathname, search } = location;
  if (!hash.startsWith('#/sign-in/')) return undefined;
  history.replaceState(history.state, '', pathname + search);
  return hash;
}

async function arrive(link: string | undefined): Promise<void> {
  const refused = await begin(link);
  const now = sessionState.get();
  if (refused !== undefined) toast(now.state === 'in' ? `${refused} You are still signed in as ${now.session.name}.` : refused);
}

const link = takeLink();
watchLeaving();
startRouter(screens);
listen();
watchSingleKeys();
watchActivity();
watchSystemTheme();

// A file that misses the place where it should be dropped must not replace the console.
for (const name of ['dragover', 'drop'] as const)
  addEventListener(name, (event) => {
    if (event.dataTransfer?.types.includes('Files') === true) event.preventDefault();
  });

keepErrors(queryClient);
const live = new Live(browserPlatform('/api/v1/events'), {
  changes: (changes) => changed(queryClient, changes),
  reset: () => fetchAgain(queryClient),
});
setLive(live);

let actor: string | undefined;
sessionState.subscribe((now) => {
  if (now.state !== 'in') return;
  if (actor !== undefined && actor !== now.session.actor) {
    queryClient.clear();
    live.restart();
  }
  actor = now.session.actor;
  live.retry();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) live.retry();
});

let streaming = false;
const root = document.getElementById('root');
if (root !== null)
  render(
    <App
      live={live.state}
      onSignedIn={() => {
        if (streaming) return;
        streaming = true;
        live.start();
      }}
    />,
    root,
  );

if (link !== undefined && location.pathname === '/sign-in') navigate('/', { replace: true });
void arrive(link);
// A link pasted into a tab that is here already loads nothing.
addEventListener('hashchange', () => {
  const pasted = takeLink();
  if (pasted !== undefined) void arrive(pasted);
});
