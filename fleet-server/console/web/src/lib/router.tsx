// Where we are: the path chooses the screen, the query holds its state. Own, because the state of a list in the URL is all
// that is needed of a router here.
import type { ComponentChildren, ComponentType, JSX } from 'preact';
import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { createStore, useStore } from './store';

export interface Place {
  path: string;
  /** With the question mark, or empty. */
  search: string;
  /** Names the history entry, so that scroll positions can be kept for it. */
  key: string;
}

export type Params = Record<string, string>;

export interface Screen {
  /** `/devices/:id`; parameters are decoded. */
  path: string;
  /** Of the document: `Devices`. */
  title: string | ((params: Params) => string);
  /** The sidebar entry that is current on this screen; defaults to the first part of the path. */
  section?: string;
  load(): Promise<{ default: ComponentType<{ params: Params }> }>;
}

function newKey(): string {
  return Math.random().toString(36).slice(2, 10);
}

function read(): Place {
  const state = history.state as { key?: string } | null;
  return { path: location.pathname, search: location.search, key: state?.key ?? 'first' };
}

export const place = createStore<Place>(
  typeof location === 'undefined' ? { path: '/', search: '', key: 'first' } : read(),
);

/** Scroll positions by history entry and by name; the oldest are forgotten. */
const scrolls = new Map<string, number>();
const MAX_SCROLLS = 200;

export function rememberScroll(entry: string, name: string, top: number): void {
  scrolls.delete(`${entry} ${name}`);
  scrolls.set(`${entry} ${name}`, top);
  const oldest = scrolls.keys().next();
  if (scrolls.size > MAX_SCROLLS && oldest.done !== true) scrolls.delete(oldest.value);
}

export function recallScroll(entry: string, name: string): number | undefined {
  return scrolls.get(`${entry} ${name}`);
}

/** Set once, by `startRouter`. */
let known: readonly Screen[] = [];

/** `screens`: those whose code is fetched as soon as somebody goes to them. */
export function startRouter(screens: readonly Screen[]): void {
  known = screens;
  history.scrollRestoration = 'manual';
  if (history.state === null) history.replaceState({ key: newKey() }, '');
  arrive();
  addEventListener('popstate', () => {
    rememberScroll(place.get().key, 'page', scrollY);
    arrive();
  });
}

/** We are where the address says. The screen's code is asked for now, and not only when the frame without it has been painted. */
function arrive(): void {
  const now = read();
  const screen = findScreen(known, now.path)?.screen;
  // Whether it comes is for the screen to say.
  if (screen !== undefined) codeOf(screen).catch(() => undefined);
  place.set(now);
}

export function navigate(to: string, options: { replace?: boolean } = {}): void {
  const before = place.get();
  if (options.replace === true) {
    history.replaceState({ key: before.key }, '', to);
  } else {
    rememberScroll(before.key, 'page', scrollY);
    history.pushState({ key: newKey() }, '', to);
  }
  arrive();
}

/** Matches `/devices/:id` against a path; undefined when it does not. */
export function matchPath(pattern: string, path: string): Params | undefined {
  const wanted = pattern.split('/').filter((part) => part !== '');
  const given = path.split('/').filter((part) => part !== '');
  if (wanted.length !== given.length) return undefined;
  const params: Params = {};
  for (const [index, part] of wanted.entries()) {
    const value = given[index] ?? '';
    if (!part.startsWith(':')) {
      if (part !== value) return undefined;
      continue;
    }
    const param = decoded(value);
    if (param === undefined) return undefined;
    params[part.slice(1)] = param;
  }
  return params;
}

/** Undefined when it is not percent-encoded text: addresses come from anywhere. */
function decoded(part: string): string | undefined {
  try {
    return decodeURIComponent(part);
  } catch {
    return undefined;
  }
}

export function findScreen(screens: readonly Screen[], path: string): { screen: Screen; params: Params } | undefined {
  for (const screen of screens) {
    const params = matchPath(screen.path, path);
    if (params !== undefined) return { screen, params };
  }
  return undefined;
}

/** `href('/devices/:id', { id }, { tab: 'drift' })`: parts are encoded, empty query values are left out. */
export function href(pattern: string, params: Params = {}, query: Record<string, string | number | undefined> = {}): string {
  const path = pattern.replace(/:(\w+)/g, (_whole, name: string) => encodeURIComponent(params[name] ?? ''));
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== '') search.set(name, String(value));
  const text = search.toString();
  return text === '' ? path : `${path}?${text}`;
}

type LinkProps = Omit<JSX.IntrinsicElements['a'], 'href'> & { href: string; children?: ComponentChildren };

/** A link within the console. Modified clicks open tabs as everywhere. */
export function Link({ href: to, onClick, children, ...rest }: LinkProps): JSX.Element {
  return (
    <a
      {...rest}
      href={to}
      onClick={(event) => {
        if (typeof onClick === 'function') (onClick as (event: unknown) => void)(event);
        if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        navigate(to);
      }}
    >
      {children}
    </a>
  );
}

export interface Codec<T> {
  parse(text: string | null): T;
  /** `undefined`: the default, which is not written. */
  print(value: T): string | undefined;
}

export function text(fallback = ''): Codec<string> {
  return { parse: (value) => value ?? fallback, print: (value) => (value === fallback ? undefined : value) };
}

export function oneOf<T extends string>(values: readonly T[], fallback: T): Codec<T> {
  return {
    parse: (value) => values.find((candidate) => candidate === value) ?? fallback,
    print: (value) => (value === fallback ? undefined : value),
  };
}

export function integer(fallback: number): Codec<number> {
  return {
    parse: (value) => (value !== null && /^-?\d{1,15}$/.test(value) ? Number(value) : fallback),
    print: (value) => (value === fallback ? undefined : String(value)),
  };
}

/** Several words, separated by commas: `?runs=a,b`. A word that nobody can have encoded so stays as it stands. */
export function list(): Codec<readonly string[]> {
  return {
    parse: (value) => (value === null || value === '' ? [] : value.split(',').map((part) => decoded(part) ?? part)),
    print: (value) => (value.length === 0 ? undefined : value.map((part) => encodeURIComponent(part)).join(',')),
  };
}

export type Values<S extends Record<string, Codec<unknown>>> = { [K in keyof S]: S[K] extends Codec<infer T> ? T : never };

export function parseSearch<S extends Record<string, Codec<unknown>>>(schema: S, search: string): Values<S> {
  const given = new URLSearchParams(search);
  return Object.fromEntries(Object.entries(schema).map(([name, codec]) => [name, codec.parse(given.get(name))])) as Values<S>;
}

/** The search with `patch` applied. What the schema does not know stays. */
export function patchSearch<S extends Record<string, Codec<unknown>>>(schema: S, search: string, patch: Partial<Values<S>>): string {
  const next = new URLSearchParams(search);
  for (const [name, value] of Object.entries(patch)) {
    const printed = value === undefined ? undefined : schema[name]?.print(value);
    if (printed === undefined) next.delete(name);
    else next.set(name, printed);
  }
  const printed = next.toString();
  return printed === '' ? '' : `?${printed}`;
}

/**
 * State that lives in the URL: `const [view, setView] = useSearch(SCHEMA)`. `SCHEMA` is a constant of the module. Changes
 * replace the history entry (typing in a filter); `'push'` makes a new one (opening a tab).
 */
export function useSearch<S extends Record<string, Codec<unknown>>>(
  schema: S,
): [Values<S>, (patch: Partial<Values<S>>, how?: 'push' | 'replace') => void] {
  const { search } = useStore(place);
  const values = useMemo(() => parseSearch(schema, search), [schema, search]);
  const set = useCallback(
    (patch: Partial<Values<S>>, how: 'push' | 'replace' = 'replace') => {
      const now = place.get();
      navigate(now.path + patchSearch(schema, now.search, patch), { replace: how === 'replace' });
    },
    [schema],
  );
  return [values, set];
}

export interface Loaded {
  Component: Code | undefined;
  error: unknown;
  retry(): void;
}

type Code = ComponentType<{ params: Params }>;

const modules = new Map<Screen, Code>();
/** Asked for; also what is here already. */
const coming = new Map<Screen, Promise<Code>>();

/** The code of a screen, fetched once. What did not come is fetched anew when it is asked for again. */
function codeOf(screen: Screen): Promise<Code> {
  const asked = coming.get(screen);
  if (asked !== undefined) return asked;
  const code = screen.load().then(
    (module) => {
      modules.set(screen, module.default);
      return module.default;
    },
    (error: unknown) => {
      coming.delete(screen);
      throw error;
    },
  );
  coming.set(screen, code);
  return code;
}

/** Safari has no idle callbacks. */
function whenIdle(run: () => void): void {
  const { requestIdleCallback: idle } = globalThis as { requestIdleCallback?: (run: () => void) => unknown };
  if (idle === undefined) setTimeout(run, 200);
  else idle(run);
}

let ahead = false;

/**
 * Fetches the code of all other screens, one after the other, while the browser has nothing else to do: going to one then waits
 * for nothing. Not where somebody asked to be sparing with data; and when one does not come, the rest waits until it is needed.
 */
export function loadAhead(): void {
  const { connection } = navigator as { connection?: { saveData?: boolean } };
  if (ahead || connection?.saveData === true) return;
  ahead = true;
  const rest = known.filter((screen) => !coming.has(screen));
  const next = (): void => {
    const screen = rest.shift();
    if (screen !== undefined) whenIdle(() => void codeOf(screen).then(next, () => undefined));
  };
  next();
}

/** The code of a screen, once it is here. */
export function useScreen(screen: Screen | undefined): Loaded {
  const [state, setState] = useState<{ screen: Screen | undefined; error: unknown }>({ screen: undefined, error: undefined });
  const [attempt, setAttempt] = useState(0);
  const wanted = useRef(screen);
  wanted.current = screen;
  const Component = screen === undefined ? undefined : modules.get(screen);
  useEffect(() => {
    // What this frame was without: it may have come since.
    if (screen === undefined || Component !== undefined) return;
    const show = (error?: unknown): void => {
      if (wanted.current === screen) setState({ screen, error });
    };
    codeOf(screen).then(() => show(), show);
  }, [screen, attempt]);
  return {
    Component,
    error: Component === undefined && state.screen === screen ? state.error : undefined,
    retry: () => setAttempt((before) => before + 1),
  };
}
