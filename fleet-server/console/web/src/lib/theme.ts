// Light, dark or the system's theme. Colours are tokens in CSS (`light-dark()`); canvas charts ask `themeVersion`.
import { createStore } from './store';

export type Theme = 'system' | 'light' | 'dark';

const KEY = 'flotilla.theme';

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return value === 'light' || value === 'dark' ? value : 'system';
  } catch {
    return 'system';
  }
}

export const theme = createStore<Theme>(stored());

/** Rises whenever the colours in force change, also when the system's do. Canvas content repaints on it. */
export const themeVersion = createStore(0);

export function setTheme(next: Theme): void {
  try {
    if (next === 'system') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
  if (next === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  theme.set(next);
  themeVersion.set((version) => version + 1);
}

/** What is seen now. */
export function isDark(): boolean {
  const chosen = theme.get();
  return chosen === 'system' ? matchMedia('(prefers-color-scheme: dark)').matches : chosen === 'dark';
}

export function watchSystemTheme(): void {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    if (theme.get() === 'system') themeVersion.set((version) => version + 1);
  });
  addEventListener('storage', (event) => {
    if (event.key === KEY) setTheme(stored());
  });
}

/** Computed colours of tokens, for canvas: `tokens('--c1')` gives `rgb(…)`. */
export function tokenColours<K extends string>(...names: K[]): Record<K, string> {
  const probe = document.createElement('i');
  probe.hidden = true;
  document.body.append(probe);
  const colours = {} as Record<K, string>;
  for (const name of names) {
    probe.style.color = `var(${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colours;
}
