// Entry: theme, router, keys, session and live stream, then the app.
import { render } from 'preact';
import { App } from './app/app';
import { listen, watchSingleKeys } from './lib/keys';
import { Live, setLive, Throttle } from './lib/live';
import { browserPlatform } from './lib/live-browser';
import { queryClient } from './lib/query';
import { fetchAgain } from './lib/refetch';
import { navigate, startRouter } from './lib/router';
import { codeOf, refresh, sessionState } from './lib/session';
import { watchSystemTheme } from './lib/theme';
import './styles/tokens.css';
import './styles/base.css';
import './styles/ui.css';
import './styles/shell.css';

// The code of a sign-in link stands behind the hash, which browsers do not send. It leaves the address at once.
let code = '';
if (location.hash.startsWith('#/sign-in/')) {
  code = codeOf(location.hash);
  history.replaceState(history.state, '', location.pathname + location.search);
}

startRouter();
listen();
watchSingleKeys();
watchSystemTheme();

const refetch = new Throttle((resource) => fetchAgain(queryClient, { queryKey: [resource] }));
const live = new Live(browserPlatform('/api/v1/events'), {
  changes: (changes) => {
    for (const resource of new Set(changes.map((change) => change.resource))) refetch.hit(resource);
  },
  reset: () => fetchAgain(queryClient),
});
setLive(live);
sessionState.subscribe((now) => {
  if (now.state === 'in') live.retry();
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
      code={code}
      onSignedIn={() => {
        if (streaming) return;
        streaming = true;
        live.start();
      }}
    />,
    root,
  );

if (code === '') void refresh();
else {
  sessionState.set({ state: 'out' });
  if (location.pathname === '/sign-in') navigate('/', { replace: true });
}
