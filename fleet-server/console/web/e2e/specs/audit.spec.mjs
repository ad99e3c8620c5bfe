// The audit log: read, filtered, paged, verified; a break is shown exactly.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';

const THEMES = ['light', 'dark'];
const LIST = '**/api/v1/audit?**';
const VERIFY = '**/api/v1/audit/verify';

export const checks = [
  {
    name: 'empty, full, loading and error, in both themes',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/audit`);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `audit-${name}`);
        await page.goto(`${origin}/audit?filter=event%3Anever.happened`);
        await accessible(page, 'empty', name);
        await page.getByText('fleetctl audit list --event never.happened').first().waitFor();
        await page.route(LIST, () => new Promise(() => undefined));
        await page.goto(`${origin}/audit`);
        await page.getByRole('heading', { level: 1 }).waitFor();
        await accessible(page, 'loading', name);
        await page.unroute(LIST);
        await page.goto(`${origin}/audit?filter=device%3A%22no%20such%22`);
        await accessible(page, 'error', name);
      }
    },
  },
  {
    name: 'a chain that holds is said, and a break with its exact place',
    async run({ page, origin }) {
      await page.goto(`${origin}/audit`);
      await inState(page, 'full');
      await page.keyboard.press('v');
      await page.getByText('All chains hold').waitFor();
      const broken = { ok: false, entries: 4, head: `sha256:${'d'.repeat(64)}`, problem: 'entry 2 does not hash to what was recorded after it' };
      await page.route(VERIFY, (route) => route.fulfill({ json: { ok: false, server: { ...broken, ok: true, problem: null }, devices: 2, device_entries: 7, broken_devices: 1, broken: [{ device: 'edge-1', epochs: 1, chain: broken }] } }));
      for (const name of THEMES) {
        await theme(page, name);
        await page.getByRole('button', { name: 'Verify again' }).click();
        await page.getByText('One chain is broken').waitFor();
        await page.getByText('entry 2 does not hash to what was recorded after it').waitFor();
        await accessible(page, 'full', name);
        await shot(page, `audit-broken-${name}`);
      }
    },
  },
  {
    name: 'an entry opens by keys alone and stands in the address; the filter says what it cannot do',
    async run({ page, origin }) {
      await page.goto(`${origin}/audit`);
      await inState(page, 'full');
      await page.keyboard.press('j');
      await page.keyboard.press('Enter');
      await page.waitForURL(/entry=\d+/);
      await page.getByRole('dialog').getByText('Actor').waitFor();
      await page.keyboard.press('Escape');
      await page.getByRole('dialog').waitFor({ state: 'detached' });
      await page.keyboard.press('/');
      await page.keyboard.type('-event:fleet.created ');
      await page.getByText('The audit log knows no NOT', { exact: false }).waitFor();
      await page.keyboard.press('Control+a');
      await page.keyboard.type('event:fleet.created ');
      await page.getByRole('row', { name: /fleet\.created/ }).waitFor();
      assert.match(page.url(), /filter=event%3Afleet\.created/);
    },
  },
  {
    name: 'older entries are a page away, and Back comes back',
    async run({ page, origin, server }) {
      for (let index = 0; index < 104; index += 1) await server.call('POST', '/api/v1/claim-tokens', { uses: 1, lifetime_s: 600, tags: {} });
      await page.goto(`${origin}/audit`);
      await inState(page, 'full');
      await page.getByRole('button', { name: 'Older' }).click();
      await page.waitForURL(/cursor=\d+/);
      await page.getByRole('row', { name: /fleet\.created|claim-token\.created|session\.opened/ }).first().waitFor();
      await page.goBack();
      await page.waitForURL((url) => !url.search.includes('cursor'));
    },
  },
];
