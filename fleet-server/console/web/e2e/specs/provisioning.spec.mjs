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
      assert.match(said, /at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC/);
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
    name: 'a token’s dialog has its times written out, with their zone',
    async run({ page, origin, server }) {
      const { id } = await server.call('POST', '/api/v1/claim-tokens', { uses: 78, lifetime_s: 3600, tags: { site: 'Oslo 1' } });
      await page.goto(`${origin}/provisioning?token=${id}`);
      const facts = page.getByRole('dialog', { name: 'Claim token' }).locator('.facts');
      for (const [name, age] of [['Expires', /in \d+ (min|h)/], ['Made', /now|\d+ (s|min) ago/]]) {
        const said = await facts.locator('> div').filter({ has: page.getByText(name, { exact: true }) }).locator('dd').innerText();
        assert.match(said, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC([+−]\d\d:\d\d)? \(.+\)$/, name);
        assert.match(said, age, name);
      }
    },
  },
  {
    name: 'of two tables, keys belong to the one that has the focus in it, else to the first',
    async run({ page, origin, server }) {
      await server.call('POST', '/api/v1/claim-tokens', { uses: 79, lifetime_s: 3600, tags: {} });
      await server.addAgent('keyed-1');
      await page.goto(`${origin}/provisioning`);
      await page.getByRole('row', { name: /0 of 79/ }).waitFor();
      const inSecond = page.getByRole('grid', { name: 'Devices that enrolled last' }).getByRole('link', { name: 'keyed-1' });
      await inSecond.waitFor();
      const focused = () => page.evaluate(() => document.activeElement?.getAttribute('aria-label'));
      await page.keyboard.press('j');
      assert.equal(await focused(), 'Claim tokens');
      // Inside of the grid, not on it: its own keys need nobody to choose between two.
      await inSecond.focus();
      await page.keyboard.press('j');
      assert.equal(await focused(), 'Devices that enrolled last');
    },
  },
  {
    name: 'the secret of a token is not lost by Escape, Back and a reload before it is saved; after that the way is free',
    async run({ page, origin }) {
      await page.goto(`${origin}/devices`);
      await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Provisioning', exact: true }).click();
      await page.getByRole('button', { name: /^New claim token/ }).click();
      const form = page.getByRole('dialog', { name: 'New claim token' });
      await form.getByLabel('Devices').fill('5');
      await form.getByRole('button', { name: 'Make the token' }).click();
      const bundle = page.getByRole('dialog', { name: 'The factory bundle, shown once' });
      await bundle.getByRole('img', { name: /QR code/ }).waitFor();
      assert.equal(await bundle.getByRole('alert').count(), 0);
      await page.keyboard.press('Escape');
      await page.keyboard.press('Escape');
      await bundle.getByRole('alert').filter({ hasText: 'It is not saved yet' }).waitFor();
      await accessible(page, 'full');
      // The address that was left is put back; two steps, as far as another screen.
      const held = await page.evaluate(
        () =>
          new Promise((resolve) => {
            const push = history.pushState;
            history.pushState = function pushState(...how) {
              history.pushState = push;
              push.apply(history, how);
              resolve(true);
            };
            setTimeout(() => resolve(false), 10_000);
            history.go(-2);
          }),
      );
      assert.equal(held, true, 'Back is held');
      assert.match(page.url(), /\/provisioning\?new=1$/);
      assert.equal(await bundle.isVisible(), true);
      const asked = new Promise((resolve) => {
        page.once('dialog', (asks) => {
          resolve(asks.type());
          void asks.dismiss();
        });
      });
      await page.evaluate(() => void setTimeout(() => location.reload()));
      assert.equal(await asked, 'beforeunload');
      assert.equal(await bundle.isVisible(), true);
      await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
      await bundle.getByRole('button', { name: 'Copy the bundle' }).click();
      await bundle.getByRole('button', { name: 'Copied' }).waitFor();
      const { claim_token: secret } = JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
      assert.ok(typeof secret === 'string' && secret !== '');
      await page.evaluate(() => history.back());
      await page.getByRole('heading', { name: 'Devices', exact: true }).waitFor();
      await page.evaluate(() => history.forward());
      // Saved and left, it is nowhere any more.
      await form.waitFor();
      const kept = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }) + document.body.innerHTML);
      assert.equal(kept.includes(secret), false, 'nothing of the secret stays in the page');
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
