// Sessions: who is signed in, and ending one.
import assert from 'node:assert/strict';
import { accessible, shot, theme } from '../checks.mjs';

const THEMES = ['light', 'dark'];
const LIST = '**/api/v1/sessions?**';

export const checks = [
  {
    name: 'empty, full, loading and error, in both themes',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.route(LIST, (route) => route.fulfill({ json: { items: [] } }));
        await page.goto(`${origin}/sessions`);
        await accessible(page, 'empty', name);
        await page.unroute(LIST);
        await page.goto(`${origin}/sessions`);
        await accessible(page, 'full', name);
        await page.getByRole('row', { name: /this one/ }).waitFor();
        await shot(page, `sessions-${name}`);
        await page.route(LIST, () => new Promise(() => undefined));
        await page.goto(`${origin}/sessions`);
        await accessible(page, 'loading', name);
        await page.unroute(LIST);
        await page.route(LIST, (route) =>
          route.fulfill({ status: 403, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Not permitted', status: 403, detail: 'this needs administer' }) }),
        );
        await page.goto(`${origin}/sessions`);
        await accessible(page, 'error', name);
        await page.unroute(LIST);
      }
    },
  },
  {
    name: 'another browser’s session is ended by keys alone and is gone at once',
    async run({ page, origin, server }) {
      const { code } = await server.call('POST', '/api/v1/sign-in-links');
      const other = await fetch(`${server.origin}/api/v1/session`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'user-agent': 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0', origin: server.origin },
        body: JSON.stringify({ code }),
      });
      assert.equal(other.status, 200);
      const cookie = other.headers.get('set-cookie').split(';')[0];
      await page.goto(`${origin}/sessions`);
      await page.getByRole('row', { name: /Firefox 140 on Linux/ }).waitFor();
      await page.getByRole('grid', { name: 'Sessions' }).focus();
      await page.keyboard.press('Home');
      await page.keyboard.press('Enter');
      const shown = page.getByRole('dialog', { name: 'Firefox 140 on Linux' });
      await shown.getByRole('button', { name: 'End the session…' }).focus();
      await page.keyboard.press('Enter');
      const asks = page.getByRole('dialog', { name: 'End this session?' });
      await asks.getByText(/fleetctl sessions revoke/).waitFor();
      await asks.getByRole('button', { name: 'End the session', exact: true }).focus();
      await page.keyboard.press('Enter');
      await asks.waitFor({ state: 'detached' });
      await page.getByRole('row', { name: /Firefox 140 on Linux/ }).waitFor({ state: 'detached' });
      assert.equal((await fetch(`${server.origin}/api/v1/session`, { headers: { cookie } })).status, 401);
    },
  },
  {
    name: 'the page of the API shows in its own style, which its policy lets in',
    async run({ page, origin }) {
      const said = [];
      page.on('console', (message) => said.push(message.text()));
      await page.goto(`${origin}/docs`);
      await page.getByRole('heading', { name: 'Flotilla API' }).waitFor();
      const widest = await page.evaluate(() => getComputedStyle(document.body).maxWidth);
      assert.notEqual(widest, 'none', 'the style was refused');
      assert.deepEqual(said, []);
    },
  },
];
