// The frame: sidebar (a drawer on a phone), top bar, the screen.
import type { JSX, RefObject } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { useMedia, useUid } from '../lib/hooks';
import { awaitKeys, setSingleKeys, singleKeys, useShortcuts } from '../lib/keys';
import type { LiveState } from '../lib/live';
import { findScreen, Link, loadAhead, navigate, place, recallScroll, useScreen } from '../lib/router';
import type { Session } from '../lib/session';
import { signOut } from '../lib/session';
import type { Store } from '../lib/store';
import { useStore } from '../lib/store';
import { isDark, setTheme, theme, themeVersion } from '../lib/theme';
import { screens } from '../screens/registry';
import { Button, IconButton } from '../ui/button';
import { Icon, Mark } from '../ui/icon';
import { Menu } from '../ui/menu';
import { Palette, paletteOpen, useCommands } from '../ui/palette';
import { Empty, ErrorNote, Skeleton } from '../ui/states';
import { Page } from '../ui/page';
import { Status } from '../ui/status';
import { KeyHint } from '../ui/text';
import { Toasts } from '../ui/toast';
import { home, navEntries, navGroups } from './nav';
import { KeysOverlay, ScreenBoundary } from './overlays';
import { searchDevices } from './search';

function Sidebar({ path, onGo }: { path: string; onGo(): void }): JSX.Element {
  const at = findScreen(screens, path)?.screen.section ?? path;
  const section = navEntries.findLast((entry) => at === entry.href || (entry.href !== '/' && at.startsWith(`${entry.href}/`)));
  return (
    <nav aria-label="Main">
      <Link class="brand" href={home} onClick={onGo}>
        <Mark /> Flotilla
      </Link>
      {navGroups.map((group) => (
          <section key={group.label}>
            <h2>{group.label}</h2>
            <ul>
              {group.entries.map((entry) => (
                <li key={entry.href}>
                  <Link href={entry.href} aria-current={entry === section ? 'page' : undefined} onClick={onGo}>
                    <Icon name={entry.icon} />
                    {entry.label}
                  </Link>
                </li>
              ))}
            </ul>
          </section>
        ))}
    </nav>
  );
}

const LIVE_WORDS: Record<LiveState, { text: string; tone: 'ok' | 'busy' | 'bad' | 'idle'; title: string }> = {
  connecting: { text: 'Connecting', tone: 'idle', title: 'Waiting for live updates' },
  live: { text: 'Live', tone: 'ok', title: 'What you see follows the fleet as it happens' },
  reconnecting: { text: 'Reconnecting', tone: 'busy', title: 'The live stream broke off and is being taken up again' },
  'signed-out': { text: 'Signed out', tone: 'idle', title: 'The session has ended; live updates go on when you have signed in' },
  offline: { text: 'Offline', tone: 'bad', title: 'The server does not answer; what you see is what was known last' },
};

function LiveBadge({ state }: { state: Store<LiveState> }): JSX.Element {
  const words = LIVE_WORDS[useStore(state)];
  return (
    <span class="live" role="status" title={words.title}>
      <Status tone={words.tone}>{words.text}</Status>
    </span>
  );
}

function TopBar({ session, live, onMenu, menuOpen, drawer }: { session: Session; live: Store<LiveState>; onMenu(): void; menuOpen: boolean; drawer: string }): JSX.Element {
  useStore(themeVersion);
  const chosen = useStore(theme);
  const single = useStore(singleKeys);
  const dark = isDark();
  return (
    <header class="top">
      <IconButton label="Menu" class="menu-button" aria-expanded={menuOpen} aria-controls={drawer} onClick={onMenu}>
        <Icon name="menu" />
      </IconButton>
      <button type="button" class="find" onClick={() => paletteOpen.set(true)}>
        <Icon name="search" />
        <span class="find-text">Search or jump to…</span>
        <span aria-hidden="true">
          <KeyHint keys="mod+k" />
        </span>
      </button>
      <div class="top-end">
        <LiveBadge state={live} />
        <IconButton label={dark ? 'Switch to light' : 'Switch to dark'} onClick={() => setTheme(dark ? 'light' : 'dark')}>
          <Icon name={dark ? 'sun' : 'moon'} />
        </IconButton>
        <Menu
          label={`Account: ${session.name}`}
          class="avatar"
          header={
            <>
              <bdi class="strong">{session.name}</bdi>
              <span class="muted">{session.roles.join(', ')}</span>
            </>
          }
          items={[
            { label: 'System theme', checked: chosen === 'system', run: () => setTheme('system') },
            { label: 'Light theme', checked: chosen === 'light', run: () => setTheme('light') },
            { label: 'Dark theme', checked: chosen === 'dark', run: () => setTheme('dark') },
            { label: 'Single-key shortcuts', checked: single, toggle: true, run: () => setSingleKeys(!single) },
            { label: 'Sign out', run: () => void signOut() },
          ]}
        >
          <span aria-hidden="true">{[...session.name][0]?.toUpperCase() ?? '?'}</span>
        </Menu>
      </div>
    </header>
  );
}

export function NotFound(): JSX.Element {
  return (
    <Page title="Not here">
      <div class="card">
        <Empty action={<Link class="button primary" href={home}>Go to the start</Link>}>There is nothing at this address.</Empty>
      </div>
    </Page>
  );
}

/** The screen of the place we are at; title, focus and scroll position follow it. */
function Outlet(): JSX.Element {
  const here = useStore(place);
  const path = here.path === '/' && home !== '/' ? home : here.path;
  const found = findScreen(screens, path);
  const { Component, error } = useScreen(found?.screen);
  const ready = Component !== undefined || found === undefined;
  const waits = !ready && error === undefined;
  const title = found === undefined ? 'Not here' : typeof found.screen.title === 'string' ? found.screen.title : found.screen.title(found.params);
  const announced = useRef<string | undefined>(undefined);
  useEffect(() => {
    document.title = `${title} · Flotilla`;
  }, [title]);
  // Keys are for the screen whose name stands there already.
  useLayoutEffect(() => (waits ? awaitKeys() : undefined), [waits]);
  useEffect(() => {
    if (ready) loadAhead();
  }, [ready]);
  // Before it is painted: a key that is pressed at once must not lose the focus again.
  useLayoutEffect(() => {
    if (!ready || announced.current === path) return;
    const first = announced.current === undefined;
    announced.current = path;
    scrollTo(0, recallScroll(here.key, 'page') ?? 0);
    // A new screen: the heading gets the focus, so that reading and tabbing begin there. Not on the first load.
    if (!first) document.querySelector<HTMLElement>('#main h1')?.focus({ preventScroll: true });
  }, [ready, path, here.key]);
  if (found === undefined) return <NotFound />;
  if (error !== undefined)
    return (
      <Page title={title}>
        <ErrorNote error={error} title="The screen could not be loaded" onRetry={() => location.reload()} />
      </Page>
    );
  if (Component === undefined)
    return (
      <Page title={title}>
        <Skeleton rows={6} label={`Loading ${title}`} code />
      </Page>
    );
  return (
    <ScreenBoundary at={path}>
      <Component key={path} params={found.params} />
    </ScreenBoundary>
  );
}

/** Where the sidebar is a drawer: as in shell.css. */
const NARROW = '(max-width: 860px)';

/**
 * While the drawer is open it is all there is: it has the focus, Tab goes round in it, Escape closes it. The focus goes back to
 * the button that opened it, unless a screen has it by then.
 */
function useDrawer(open: boolean, close: () => void): RefObject<HTMLDivElement> {
  const ref = useRef<HTMLDivElement>(null);
  // Before the next key arrives.
  useLayoutEffect(() => {
    const drawer = ref.current;
    if (!open || drawer === null) return undefined;
    const links = (): HTMLElement[] => [...drawer.querySelectorAll<HTMLElement>('a')];
    links()[0]?.focus();
    const pressed = (event: KeyboardEvent): void => {
      // What lies over the drawer has the keys.
      if (document.querySelector('dialog[open]') !== null) return;
      if (event.key === 'Escape') close();
      if (event.key !== 'Tab') return;
      const all = links();
      const at = all.findIndex((link) => link === document.activeElement);
      const next = event.shiftKey ? (at <= 0 ? all.at(-1) : undefined) : at < 0 || at === all.length - 1 ? all[0] : undefined;
      if (next === undefined) return;
      event.preventDefault();
      next.focus();
    };
    addEventListener('keydown', pressed);
    return () => {
      removeEventListener('keydown', pressed);
      const { activeElement } = document;
      if (activeElement === document.body || drawer.contains(activeElement)) document.querySelector<HTMLElement>('.menu-button')?.focus();
    };
  }, [open]);
  return ref;
}

export function Shell({ session, live }: { session: Session; live: Store<LiveState> }): JSX.Element {
  const here = useStore(place);
  const narrow = useMedia(NARROW);
  // Where it was opened. Elsewhere it is closed from the first frame on: the screen that comes is not inert when it takes the
  // focus. So it is in a window that has been made wider, where the sidebar stands beside the page.
  const [opened, setOpened] = useState<string | undefined>(undefined);
  const drawer = narrow && opened === here.path;
  const close = (): void => setOpened(undefined);
  const side = useDrawer(drawer, close);
  const id = useUid('drawer');
  useShortcuts(
    () => navEntries.map((entry) => ({ keys: `g ${entry.key}`, label: `Go to ${entry.label}`, group: 'Go to', run: () => navigate(entry.href) })),
    [],
  );
  useCommands(
    () => [
      ...navEntries.map((entry) => ({ label: `Go to ${entry.label}`, group: 'Go to', icon: entry.icon, keys: `g ${entry.key}`, run: () => navigate(entry.href) })),
      { label: 'Light theme', group: 'Settings', icon: 'sun' as const, run: () => setTheme('light') },
      { label: 'Dark theme', group: 'Settings', icon: 'moon' as const, run: () => setTheme('dark') },
      { label: 'System theme', group: 'Settings', run: () => setTheme('system') },
      { label: 'Single-key shortcuts on or off', group: 'Settings', words: 'keyboard', run: () => setSingleKeys(!singleKeys.get()) },
      { label: 'Sign out', group: 'Settings', run: () => void signOut() },
    ],
    [],
  );
  useEffect(close, [here.path, narrow]);
  return (
    <div class={drawer ? 'app drawer-open' : 'app'}>
      <a class="skip" href="#main" inert={drawer} onClick={(event) => { event.preventDefault(); document.getElementById('main')?.focus(); }}>
        Skip to content
      </a>
      <div ref={side} class="side" id={id} {...(drawer ? { role: 'dialog', 'aria-modal': true, 'aria-label': 'Menu' } : {})}>
        <Sidebar path={here.path === '/' ? home : here.path} onGo={close} />
      </div>
      <div class="scrim" onClick={close} />
      <div class="column" inert={drawer}>
        <TopBar session={session} live={live} onMenu={() => setOpened(here.path)} menuOpen={drawer} drawer={id} />
        <main id="main" tabIndex={-1}>
          <Outlet />
        </main>
      </div>
      <Palette search={searchDevices} />
      <KeysOverlay />
      <Toasts />
    </div>
  );
}

export function ServerGone({ onRetry }: { onRetry(): void }): JSX.Element {
  return (
    <main id="main" class="sign-in">
      <div class="card sign-in-card" data-state="error">
        <div class="brand">
          <Mark /> Flotilla
        </div>
        <h1>The server does not answer</h1>
        <p class="muted">It may be restarting. This page tries again every few seconds.</p>
        <Button onClick={onRetry}>Try now</Button>
      </div>
    </main>
  );
}
