// Lists beyond the two thousand rows that they once ended at: every row is reached, by whatever order, and what is not on the
// screen is neither fetched nor in the document.
import assert from 'node:assert/strict';
import { inState, small, theme } from '../checks.mjs';

export const long = true;

/** A judgement each. */
const DEVICES = 2_200;
const RUNS = 2_300;

export const prepare = ({ config, releaseKey, example }) => example('seed', config, releaseKey, String(DEVICES), String(RUNS));

const words = (number) => number.toLocaleString('en');
const asked = (server, list, query) => server.call('GET', `/api/v1/${list}?${new URLSearchParams(query)}`);

/** The last rows, once they are here; what stands in their first cells. */
async function toTheEnd(page, label, total) {
  await page.getByRole('grid', { name: label }).evaluate((grid) => grid.scrollTo(0, grid.scrollHeight));
  await page.waitForFunction((last) => document.querySelector(`.tbody [role=row][aria-rowindex="${last}"] .row-link`) !== null, total + 1);
  await page.waitForFunction(() => document.querySelector('.tbody .bone') === null);
  await small(page);
  return page.locator('.tbody [role=row] .row-link').allTextContents();
}

/** The requests of a list, while `look` looks at it. */
async function requests(page, path, look) {
  const made = [];
  const note = (request) => {
    if (new URL(request.url()).pathname === path) made.push(request.url());
  };
  page.on('request', note);
  await look();
  page.off('request', note);
  return made;
}

export const checks = [
  {
    name: 'the best of all runs come first, and the last run is reached',
    async run({ page, origin, server }) {
      await theme(page, 'light');
      const name = (run) => `${run.experiment} seed ${run.seed}`;
      const best = await asked(server, 'runs', { sort: '-accuracy', limit: '20' });
      assert.equal(best.total, RUNS);
      const made = await requests(page, '/api/v1/runs', async () => {
        await page.goto(`${origin}/runs?sort=-accuracy`);
        await page.getByText(`${words(RUNS)} runs`).waitFor();
        await page.locator('.tbody .row-link').first().waitFor();
      });
      assert.ok(made.length <= 3, `${made.length} requests for one screen of runs`);
      const shown = await page.locator('.tbody [role=row] .row-link').allTextContents();
      assert.deepEqual(shown.slice(0, 10), best.items.slice(0, 10).map(name));
      const last = await asked(server, 'runs', { sort: '-accuracy', limit: '5', offset: String(RUNS - 5) });
      assert.ok(last.items.every((run) => run.metrics['holdout.accuracy'] === undefined), 'what has no accuracy comes last');
      assert.deepEqual((await toTheEnd(page, 'Runs', RUNS)).slice(-5), last.items.map(name));
      // The other way round they are last again.
      await page.getByRole('button', { name: /Holdout accuracy/ }).click();
      await page.waitForURL(/sort=accuracy/);
      const worst = await asked(server, 'runs', { sort: 'accuracy', limit: '1' });
      await page.getByRole('row', { name: new RegExp(`${name(worst.items[0])} `) }).waitFor();
      assert.deepEqual((await toTheEnd(page, 'Runs', RUNS)).slice(-5), last.items.map(name));
    },
  },
  {
    name: 'runs are filtered by figures and NOT, and counted, by the server',
    async run({ page, origin, server }) {
      const filter = 'accuracy:>0.9 -experiment:bel* -status:failed';
      const { total } = await asked(server, 'runs', { filter, limit: '1' });
      assert.ok(total > 20 && total < RUNS / 10, `${total} match`);
      await page.goto(`${origin}/runs`);
      await inState(page, 'full');
      await page.keyboard.press('/');
      await page.keyboard.type(`${filter} `);
      await page.getByText(`${words(total)} matching`, { exact: true }).waitFor();
      await page.getByText(`fleetctl runs list --filter '${filter}'`, { exact: true }).waitFor();
      for (const row of await page.locator('.tbody [role=row]').allInnerTexts()) assert.doesNotMatch(row, /belts|Failed/);
    },
  },
  {
    name: 'the last judgement of drift is reached, and any device is found',
    async run({ page, origin, server }) {
      const all = await asked(server, 'drift', { sort: '-severity', limit: '1' });
      assert.equal(all.total, DEVICES);
      await page.goto(`${origin}/drift`);
      await page.getByText(`of ${words(DEVICES)} judgements`).first().waitFor();
      const last = await asked(server, 'drift', { sort: '-severity', limit: '5', offset: String(DEVICES - 5) });
      assert.deepEqual((await toTheEnd(page, 'Drift', DEVICES)).slice(-5), last.items.map((judged) => judged.device));
      await page.getByRole('button', { name: /^Device/ }).click();
      await page.waitForURL(/sort=device/);
      const [first] = (await asked(server, 'drift', { sort: 'device', limit: '1' })).items;
      await page.getByRole('row', { name: new RegExp(first.device) }).waitFor();
      const filter = `drifted:no -version:${first.semver} severity:>0.1`;
      const { total } = await asked(server, 'drift', { filter, limit: '1' });
      assert.ok(total > 0 && total < DEVICES);
      await page.goto(`${origin}/drift?filter=${encodeURIComponent(filter)}`);
      await page.getByText(`${words(total)} matching`, { exact: true }).waitFor();
      await page.getByText(`fleetctl drift list --filter '${filter}' --sort=-severity`, { exact: true }).waitFor();
      // By name, wherever it stands.
      const [lost] = last.items;
      await page.goto(`${origin}/drift?filter=${lost.device}`);
      await page.getByRole('row', { name: new RegExp(lost.device) }).waitFor();
      await small(page);
    },
  },
];
