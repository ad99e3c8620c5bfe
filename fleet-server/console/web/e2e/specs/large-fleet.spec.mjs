// A large fleet, seeded through the server's own store (E2E_DEVICES says how large): the page stays small, and filter, sort and
// selection are the server's.
import assert from 'node:assert/strict';
import { accessible, inState, small, theme } from '../checks.mjs';
import { until } from '../server.mjs';

export const long = true;

const DEVICES = Number(process.env.E2E_DEVICES ?? 20_000);
/** Of the seeded line's versions; signed. */
const NEWEST = '0192f0c1-0000-7000-8000-000000000104';
const SOON = { timeout: 120_000 };

export const prepare = ({ config, releaseKey, example }) => example('seed', config, releaseKey, String(DEVICES));

const words = (number) => number.toLocaleString('en');
const total = async (server, filter) => (await server.call('GET', `/api/v1/devices?limit=1&filter=${encodeURIComponent(filter)}`)).total;

async function settled(page) {
  await page.waitForSelector('[role=grid][aria-busy=false]');
}

/** The first cells of the rows that are in the document, from the top. */
async function names(page) {
  await page.waitForFunction(() => document.querySelectorAll('.tbody [role=row]').length > 0 && document.querySelector('.tbody .bone') === null);
  return page.locator('.tbody [role=row] .row-link').allInnerTexts();
}

export const checks = [
  {
    name: 'few rows and few nodes wherever the list is, and the fleet is counted',
    async run({ page, origin }) {
      await theme(page, 'light');
      await page.goto(`${origin}/devices`);
      await page.getByText(`${words(DEVICES)} in the fleet`).waitFor();
      const first = await names(page);
      for (const share of [0.3, 0.65, 1]) {
        await page.getByRole('grid', { name: 'Devices' }).evaluate((grid, to) => grid.scrollTo(0, grid.scrollHeight * to), share);
        // The rows that are shown are loaded, not only reserved.
        await page.waitForFunction((before) => {
          const row = document.querySelector('.tbody [role=row] .row-link');
          return row !== null && row.textContent !== before && document.querySelector('.tbody .bone') === null;
        }, first[0]);
        await small(page);
      }
      await page.getByRole('grid', { name: 'Devices' }).focus();
      await page.keyboard.press('End');
      await page.locator(`[role=grid][aria-activedescendant$="-row-${DEVICES - 1}"]`).waitFor();
      await small(page);
      await accessible(page, 'full', 'light');
    },
  },
  {
    name: 'a filter with NOT is the server’s, and what is typed meanwhile wins',
    async run({ page, origin, server }) {
      const wanted = await total(server, 'site:oslo -model:1.4.2 -class:pi-5');
      const without = await total(server, 'site:oslo');
      assert.ok(wanted > 0 && wanted < without, `${wanted} of ${without}`);
      await page.goto(`${origin}/devices`);
      await page.getByText(`${words(DEVICES)} in the fleet`).waitFor();
      await page.keyboard.press('/');
      await page.keyboard.type('site:oslo -model:1.4.2 -class:pi-5 ');
      await page.getByText(`${words(wanted)} matching`).waitFor();
      await settled(page);
      const shown = await page.locator('.tbody [role=row]').allInnerTexts();
      assert.ok(shown.length > 0);
      for (const row of shown) {
        assert.match(row, /oslo/);
        assert.doesNotMatch(row, /1\.4\.2|pi-5/);
      }
      await small(page);
      // A filter that matches nothing, and back.
      await page.keyboard.press('Control+a');
      await page.keyboard.type('site:nowhere ');
      await inState(page, 'empty');
      await page.getByText('No device matches this filter.').waitFor();
      await page.getByRole('button', { name: 'Clear the filter' }).click();
      await page.getByText(`${words(DEVICES)} in the fleet`).waitFor();
    },
  },
  {
    name: 'sorted by the server, both ways',
    async run({ page, origin, server }) {
      for (const sort of ['drift', '-drift', '-id']) {
        const { items } = await server.call('GET', `/api/v1/devices?limit=20&sort=${sort}`);
        await page.goto(`${origin}/devices?sort=${sort}`);
        assert.deepEqual((await names(page)).slice(0, 10), items.slice(0, 10).map((device) => device.id), sort);
      }
      await page.goto(`${origin}/devices`);
      await names(page);
      await page.getByRole('button', { name: /^Drift/ }).click();
      await page.waitForURL(/sort=drift/);
      await page.getByRole('button', { name: /^Drift/ }).click();
      await page.waitForURL(/sort=-drift/);
      assert.equal(await page.getByRole('columnheader', { name: /Drift/ }).getAttribute('aria-sort'), 'descending');
    },
  },
  {
    name: 'all that match, but one, are tagged by the server; by keys alone',
    async run({ page, origin, server }) {
      const filter = 'site:brno -model:2.1.0';
      const matching = await total(server, filter);
      await page.goto(`${origin}/devices?filter=${encodeURIComponent(filter)}`);
      await page.getByText(`${words(matching)} matching`).waitFor();
      const [spared] = await names(page);
      await page.getByRole('grid', { name: 'Devices' }).focus();
      await page.keyboard.press('Control+a');
      await page.getByText(`${words(matching)} devices selected`).waitFor();
      await page.keyboard.press('Home');
      await page.keyboard.press('x');
      await page.getByText(`${words(matching - 1)} devices selected`).waitFor();
      await small(page);
      await page.getByRole('region', { name: 'Selection' }).getByRole('button', { name: 'Tag…' }).focus();
      await page.keyboard.press('Enter');
      const dialog = page.getByRole('dialog', { name: /^Tag / });
      await dialog.getByLabel('Tags').waitFor();
      await page.keyboard.type('checked=<i>yes</i>');
      await dialog.getByText(new RegExp(`fleetctl devices tag .*--filter .*${spared}.* --expect ${matching - 1}`)).waitFor();
      // Enter begins another tag.
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      await until('the tags', async () => (await total(server, 'checked:<i>yes</i>')) === matching - 1, 120);
      assert.deepEqual((await server.call('GET', `/api/v1/devices/${spared}`)).tags.checked, undefined, 'the one that was taken out');
    },
  },
  {
    name: 'the other screens of a large fleet are as small',
    async run({ page, origin }) {
      for (const [path, told] of [
        ['/', /devices in the fleet/],
        ['/drift', /Drifted/],
        ['/rollouts', /vibration/],
        ['/models/vibration', /2\.1\.0/],
        ['/rollouts/0192f0c1-0000-7000-8000-000000000001', /golden outputs differ by 0\.31/],
        ['/rollouts/new', /New rollout/],
        [`/rollouts/new?version=${NEWEST}`, new RegExp(`${words(DEVICES)} devices match now`)],
      ]) {
        await page.goto(origin + path);
        await inState(page, 'full');
        await page.getByText(told).first().waitFor(SOON);
        await small(page);
      }
    },
  },
];
