// Which screens axe has looked at in which states and themes. Screens are those of the console's own route files: a new one
// has to be looked at, or be named here with the reason why a state cannot be.
import { readdir, readFile } from 'node:fs/promises';

const STATES = ['full', 'empty', 'loading', 'error'];
const THEMES = ['light', 'dark'];
const screens = new URL('../src/screens/', import.meta.url);

/** States that a screen is never in. */
const NEVER = {
  '/datasets/new': { empty: 'a form', loading: 'asks nothing', error: 'asks nothing; what is refused is shown in the form' },
  '/devices/:id': { empty: 'a device that is not there is an error' },
  '/datasets/:id/labeling': {},
  '/model-versions/:id': { empty: 'a version that is not there is an error' },
  '/model-versions/new': { loading: 'the form is there at once, its lists follow', error: 'the form is there, what fails is a part of it' },
  '/runs/:id': { empty: 'a run that is not there is an error' },
  '/runs/new': { empty: 'a form', loading: 'the form is there at once, its lists follow', error: 'the form is there, what fails is a part of it' },
};

/** `full` under another name, where a check says more exactly what it looks at. */
const MEANT = { form: 'full', importing: 'full' };

async function routes() {
  const found = [];
  for (const folder of await readdir(screens, { withFileTypes: true })) {
    if (!folder.isDirectory()) continue;
    const text = await readFile(new URL(`${folder.name}/route.ts`, screens), 'utf8');
    found.push(...[...text.matchAll(/path: '([^']+)'/g)].map((match) => match[1]));
  }
  // Fixed parts before parameters, as the console does.
  return found.sort((left, right) => left.split(':').length - right.split(':').length || left.localeCompare(right));
}

function matches(pattern, path) {
  const wanted = pattern.split('/').filter((part) => part !== '');
  const given = path.split('/').filter((part) => part !== '');
  return wanted.length === given.length && wanted.every((part, index) => part.startsWith(':') || part === given[index]);
}

/** Prints the table; gives what is missing. */
export async function coverage(looked) {
  const patterns = await routes();
  const seen = new Set(looked.map(({ path, theme, state }) => `${patterns.find((pattern) => matches(pattern, path))} ${MEANT[state] ?? state} ${theme}`));
  const missing = [];
  console.log(`\naxe without findings (L light, D dark; - cannot be)\n${'screen'.padEnd(28)}${STATES.map((state) => state.padEnd(9)).join('')}`);
  for (const pattern of patterns) {
    const cells = STATES.map((state) => {
      if (NEVER[pattern]?.[state] !== undefined) return '-';
      return THEMES.map((theme) => {
        if (seen.has(`${pattern} ${state} ${theme}`)) return theme === 'light' ? 'L' : 'D';
        missing.push(`${pattern} (${state}, ${theme})`);
        return '.';
      }).join('');
    });
    console.log(`${pattern.padEnd(28)}${cells.map((cell) => cell.padEnd(9)).join('')}`);
  }
  console.log('');
  return missing;
}
