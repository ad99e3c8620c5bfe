// What checks share: assertions that wait, axe with the state asserted first, figures of the page, screenshots.
import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const axeSource = await readFile(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

/** What axe has looked at: path, theme and state. The runner compares it with what every screen has to show. */
export const looked = [];

/**
 * Whether the screen is in this state, in the page. Its own state is that of an outermost `data-state`; those inside another
 * one are of its parts, and count where `part` asks for them. Bones appear late: what loads without them shows nothing yet.
 */
const isIn = ({ state, part }) =>
  [...document.querySelectorAll('main[data-state], #main [data-state]')].some((element) => {
    if (element.dataset.state !== state) return false;
    if (!part && element.parentElement.closest('main[data-state], #main [data-state]') !== null) return false;
    const { width, height } = element.getBoundingClientRect();
    return width > 0 && height > 0 && (!['loading', 'code'].includes(state) || element.querySelector('.bone') !== null);
  });

/**
 * Waits until the screen is in this state: `full`, `empty`, `loading` or `error`; `code` while the shell waits for its code. With
 * `part`, until a part of it is.
 */
export async function inState(page, state, { part = false } = {}) {
  await page.waitForFunction(isIn, { state, part });
}

/** Axe finds nothing. The state is asserted first, so that no check looks at something else than it says. A part's state is not the screen's: it is not counted. */
export async function accessible(page, state, theme, { part = false } = {}) {
  await inState(page, state, { part });
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
  assert.ok(await page.evaluate(isIn, { state, part }), `${page.url()} left the state ${state} while axe looked`);
  if (!part) looked.push({ path: new URL(page.url()).pathname, theme: dark ? 'dark' : 'light', state });
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
