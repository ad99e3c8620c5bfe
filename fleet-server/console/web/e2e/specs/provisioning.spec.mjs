// Provisioning: claim tokens and who came in with them.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';

const THEMES = ['light', 'dark'];
const TOKENS = '**/api/v1/claim-tokens?**';

export const checks = [
  {
    name: 'empty, full, loading and error, in both themes',
    async run({ page, origin, server }) {
      await server.call('POST', '/api/v1/claim-tokens', { uses: 40, lifetime_s: 3600, tags: { site: '<i>Turin</i>' } });
      for (const name of THEMES) {
        await theme(page, name);
        await page.route(TOKENS, (route) => route.fulfill({ json: { items: [] } }));
        await page.route('**/api/v1/devices?**', (route) => route.fulfill({ json: { items: [], total: 0 } }));
        await page.goto(`${origin}/provisioning`);
        await accessible(page, 'empty', name);
        await page.unroute('**/api/v1/devices?**');
        await page.unroute(TOKENS);
        await page.goto(`${origin}/provisioning`);
        await page.getByRole('row', { name: /0 of 40/ }).first().waitFor();
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `provisioning-${name}`);
        await page.route(TOKENS, () => new Promise(() => undefined));
        await page.goto(`${origin}/provisioning`);
        await page.getByRole('heading', { level: 1 }).waitFor();
        await accessible(page, 'loading', name);
        await page.unroute(TOKENS);
        await page.route(TOKENS, (route) =>
          route.fulfill({ status: 403, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Not permitted', status: 403, detail: 'this needs operate' }) }),
        );
        await page.goto(`${origin}/provisioning`);
        await accessible(page, 'error', name);
        await page.getByText('this needs operate').waitFor();
        await page.unroute(TOKENS);
      }
    },
  },
  {
    name: 'a token that lapses soon is on the overview, with its time as all others',
    async run({ page, origin, server }) {
      await server.call('POST', '/api/v1/claim-tokens', { uses: 3, lifetime_s: 60, tags: {} });
      await page.goto(`${origin}/?attention=all`);
      const row = page.getByRole('link', { name: /a claim token with 3 uses left lapses/ });
      await row.waitFor();
      const said = await row.locator('.overview-attention-what').textContent();
      assert.match(said, /at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?!\d)/);
      assert.doesNotMatch(said, /\dT\d\d:/);
    },
  },
  {
    name: 'a token is revoked by keys alone, and says so',
    async run({ page, origin, server }) {
      const token = await server.call('POST', '/api/v1/claim-tokens', { uses: 77, lifetime_s: 3600, tags: {} });
      await page.goto(`${origin}/provisioning`);
      await page.getByRole('row', { name: /0 of 77/ }).waitFor();
      const grid = page.getByRole('grid', { name: 'Claim tokens' });
      await grid.focus();
      await page.keyboard.press('Home');
      await page.keyboard.press('Enter');
      const shown = page.getByRole('dialog', { name: 'Claim token' });
      await shown.getByText('0 of 77 devices').waitFor();
      await shown.getByRole('button', { name: 'Revoke…' }).focus();
      await page.keyboard.press('Enter');
      const asks = page.getByRole('dialog', { name: 'Revoke this claim token?' });
      await asks.getByText(`fleetctl tokens revoke ${token.id}`).waitFor();
      await asks.getByRole('button', { name: 'Revoke', exact: true }).focus();
      await page.keyboard.press('Enter');
      await asks.waitFor({ state: 'detached' });
      await page.getByRole('row', { name: /Revoked.*0 of 77/ }).waitFor();
      const { items } = await server.call('GET', '/api/v1/claim-tokens');
      assert.equal(items.find((item) => item.id === token.id).revoked, true);
    },
  },
  {
    name: 'what is typed survives a reload, and what the server refuses',
    async run({ page, origin }) {
      await page.goto(`${origin}/provisioning?new=1`);
      const dialog = page.getByRole('dialog', { name: 'New claim token' });
      await dialog.getByLabel('Devices').fill('12');
      await dialog.getByLabel('Tags').fill('line=7');
      await page.reload();
      assert.equal(await dialog.getByLabel('Devices').inputValue(), '12');
      await page.route('**/api/v1/claim-tokens', (route) =>
        route.fulfill({ status: 422, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Refused', status: 422, detail: 'not today', errors: [{ place: 'tags', message: 'too many tags' }] }) }),
      );
      await dialog.getByRole('button', { name: 'Make the token' }).click();
      await dialog.getByText('not today').waitFor();
      await dialog.getByText('▲ too many tags').waitFor();
      assert.equal(await dialog.getByLabel('Tags').inputValue(), 'line=7');
      await page.keyboard.press('Escape');
      await dialog.waitFor({ state: 'detached' });
      await inState(page, 'full').catch(() => inState(page, 'empty'));
    },
  },
];
