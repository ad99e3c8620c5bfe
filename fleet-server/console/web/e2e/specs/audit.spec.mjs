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
      await page.getByRole('dialog').getByRole('term').filter({ hasText: 'Actor' }).waitFor();
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
    name: 'actor, subject and time are the server’s to narrow by; an entry narrows to itself, and each term is cleared by one key',
    async run({ page, origin, server }) {
      const { id } = await server.call('POST', '/api/v1/claim-tokens', { uses: 1, lifetime_s: 600, tags: {} });
      const { items } = await server.call('GET', `/api/v1/audit?subject=claim-token:${id}`);
      assert.equal(items.length, 1);
      await page.goto(`${origin}/audit?filter=${encodeURIComponent(`event:claim-token.* subject:claim-token:${id}`)}`);
      await page.getByRole('row', { name: /claim-token\.created/ }).waitFor();
      await page.getByText(`fleetctl audit list --event 'claim-token.*' --subject claim-token:${id}`).waitFor();
      await page.keyboard.press('j');
      await page.keyboard.press('Enter');
      await page.getByRole('dialog').getByRole('button', { name: 'Only this actor' }).press('Enter');
      await page.getByRole('dialog').waitFor({ state: 'detached' });
      await page.waitForURL((url) => url.searchParams.get('filter').endsWith(` actor:${items[0].actor}`));
      const terms = page.getByRole('list', { name: 'Filters in force' });
      await terms.getByRole('button', { name: `Clear subject:claim-token:${id}` }).press('Enter');
      await page.waitForURL((url) => !url.searchParams.get('filter').includes('subject'));
      await terms.getByRole('button', { name: /Clear subject/ }).waitFor({ state: 'detached' });
      await accessible(page, 'full');
      await terms.getByRole('button', { name: 'Clear all' }).press('Enter');
      await page.waitForURL((url) => !url.searchParams.has('filter'));
      await page.goto(`${origin}/audit?filter=to%3A2020-01-01`);
      await inState(page, 'empty');
      await page.goto(`${origin}/audit?filter=from%3A2020-01-01`);
      await inState(page, 'full');
      await page.goto(`${origin}/audit?filter=from%3Asoon%20`);
      await page.getByText('from: needs a day such as', { exact: false }).waitFor();
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
