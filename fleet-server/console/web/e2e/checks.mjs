// What checks share: assertions that wait, axe with the state asserted first, figures of the page, screenshots.
import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const axeSource = await readFile(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

/** What axe has looked at: path, theme and state. The runner compares it with what every screen has to show. */
export const looked = [];

/** Waits until the screen's main region is in this state: `full`, `empty`, `loading` or `error`. */
export async function inState(page, state) {
  await page.waitForSelector(`#main [data-state="${state}"], main[data-state="${state}"]`);
}

/** Axe finds nothing. The state is asserted first, so that no check looks at something else than it says. */
export async function accessible(page, state, theme) {
  await inState(page, state);
  const dark = await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme.includes('dark') && matchMedia('(prefers-color-scheme: dark)').matches);
  if (theme !== undefined) assert.equal(dark, theme === 'dark', `the page should be ${theme}`);
  // Rows whose successors are under way are dimmed, and no longer looked at.
  await page.waitForFunction(() => document.querySelector('.table.stale, .table[data-state="full"] [aria-busy="true"]') === null);
  // Chromium computes colours of moving things as they are at that moment.
  await page.evaluate(() => Promise.all(document.getAnimations().filter((animation) => animation.effect?.getTiming().iterations !== Infinity).map((animation) => animation.finished)));
  if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const said = violations.map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`);
  assert.deepEqual(said, [], `axe at ${page.url()} (${theme}, ${state})`);
  // Still in it: what axe saw is what was meant.
  const still = await page.evaluate((wanted) => document.querySelector(`#main [data-state="${wanted}"], main[data-state="${wanted}"]`) !== null, state);
  assert.ok(still, `${page.url()} left the state ${state} while axe looked`);
  looked.push({ path: new URL(page.url()).pathname, theme: dark ? 'dark' : 'light', state });
}

/** At most sixty rows and two thousand nodes. */
export async function small(page) {
  const { rows, nodes } = await page.evaluate(() => ({
    rows: document.querySelectorAll('.tbody [role=row]').length,
    nodes: document.querySelectorAll('*').length,
  }));
  assert.ok(rows <= 60, `${rows} rows in the document`);
  assert.ok(nodes <= 2000, `${nodes} nodes in the document`);
}

/** Nothing is wider than the window. */
export async function fits(page) {
  const { wide, inner } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, inner: innerWidth }));
  assert.ok(wide <= inner, `${page.url()} is ${wide} wide in a window of ${inner}`);
}

export async function theme(page, name) {
  await page.emulateMedia({ colorScheme: name });
}

/** A screenshot in `SHOTS` (default `shots/`). */
export async function shot(page, name) {
  const folder = process.env.SHOTS ?? 'shots';
  await mkdir(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`) });
}
