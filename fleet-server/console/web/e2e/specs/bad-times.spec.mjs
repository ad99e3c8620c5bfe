// A server that is gone, slow or restarts, and a session that ends in the middle of a form: nothing typed is lost, nothing is
// done twice.
import assert from 'node:assert/strict';
import { accessible, inState, shot, theme } from '../checks.mjs';
import { until } from '../server.mjs';

const THEMES = ['light', 'dark'];
const tokens = async (server) => (await server.call('GET', '/api/v1/claim-tokens?limit=100')).items;

/** The form of a claim token, filled for so many devices. */
async function filled(page, origin, uses) {
  await page.goto(`${origin}/provisioning?new=1`);
  const form = page.getByRole('dialog', { name: 'New claim token' });
  await form.getByLabel('Devices').fill(String(uses));
  await form.getByLabel('Tags').fill('site=Oslo 1');
  return { form, send: form.getByRole('button', { name: 'Make the token' }) };
}

/** Ends this browser's sessions on the server: the cookie stays, and stands for nothing. */
async function endSessions(server) {
  for (const session of (await server.call('GET', '/api/v1/sessions?limit=100')).items) await server.call('DELETE', `/api/v1/sessions/${session.id}`);
}

async function signInAgain(page, server) {
  const dialog = page.getByRole('dialog', { name: 'Your session has ended' });
  await dialog.waitFor();
  await dialog.getByLabel('Sign-in link or code').fill(await server.signInLink());
  await page.keyboard.press('Enter');
  await dialog.waitFor({ state: 'detached' });
}

export const checks = [
  {
    name: 'a console that is opened while the server is gone says so, and opens when it is back',
    async run({ page, origin, server }) {
      // The page itself is there (a proxy, a cache): its server is not.
      await page.route('**/api/v1/session', (route) => route.abort('connectionrefused'));
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/devices`);
        await page.getByRole('heading', { name: 'The server does not answer' }).waitFor();
        await accessible(page, 'error', name);
        await shot(page, `server-gone-${name}`);
      }
      // It asks again by itself: what has the focus keeps it meanwhile.
      await page.getByRole('button', { name: 'Try now' }).focus();
      for (let asked = 0; asked < 2; asked += 1) await page.waitForRequest('**/api/v1/session');
      assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Try now');
      await page.unroute('**/api/v1/session');
      await page.getByRole('heading', { name: 'Devices', exact: true }).waitFor();
      assert.equal(new URL(page.url()).origin, server.origin);
    },
  },
  {
    name: 'a server that goes away under a form: the form stays, and is sent once it is back, once',
    async run({ page, origin, server }) {
      const { form, send } = await filled(page, origin, 31);
      await server.stopServer();
      await send.click();
      await form.getByText('The server does not answer', { exact: false }).waitFor();
      assert.equal(await form.getByLabel('Devices').inputValue(), '31');
      assert.equal(await form.getByLabel('Tags').inputValue(), 'site=Oslo 1');
      await server.startAgain();
      await send.click();
      await page.getByRole('dialog', { name: 'The factory bundle, shown once' }).waitFor();
      assert.equal((await tokens(server)).filter((token) => token.uses === 31).length, 1);
    },
  },
  {
    name: 'a slow server: what is known stays, the button waits, and two keys send once',
    async run({ page, origin, server }) {
      const { send } = await filled(page, origin, 32);
      let release;
      const held = new Promise((resolve) => (release = resolve));
      let sent = 0;
      await page.route('**/api/v1/claim-tokens', async (route) => {
        if (route.request().method() !== 'POST') return route.fallback();
        sent += 1;
        await held;
        return route.continue();
      });
      await send.focus();
      await page.keyboard.press('Enter');
      await page.keyboard.press('Enter');
      await page.locator('button[aria-busy=true]', { hasText: 'Make the token' }).waitFor();
      release();
      await page.getByRole('dialog', { name: 'The factory bundle, shown once' }).waitFor();
      assert.equal(sent, 1);
      assert.equal((await tokens(server)).filter((token) => token.uses === 32).length, 1);
      await page.unroute('**/api/v1/claim-tokens');
      // A list that is asked again keeps its rows until the answer is here; one that is new shows bones.
      await page.goto(`${origin}/provisioning`);
      await page.getByRole('row', { name: /0 of 32/ }).waitFor();
      let answer;
      const waiting = new Promise((resolve) => (answer = resolve));
      await page.route('**/api/v1/claim-tokens?**', async (route) => {
        await waiting;
        return route.continue();
      });
      await server.call('POST', '/api/v1/claim-tokens', { uses: 33, lifetime_s: 600, tags: {} });
      await page.waitForRequest('**/api/v1/claim-tokens?**');
      assert.equal(await page.getByRole('row', { name: /0 of 32/ }).count(), 1, 'what is known stays');
      assert.equal(await page.getByRole('row', { name: /0 of 33/ }).count(), 0);
      answer();
      await page.getByRole('row', { name: /0 of 33/ }).waitFor();
    },
  },
  {
    name: 'a restart: what changed meanwhile is shown without a reload',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/provisioning`);
      await page.locator('.live .status.ok').waitFor();
      await server.stopServer();
      await page.locator('.live .status.busy, .live .status.bad').waitFor();
      await server.startAgain();
      await server.call('POST', '/api/v1/claim-tokens', { uses: 34, lifetime_s: 600, tags: {} });
      await page.getByRole('row', { name: /0 of 34/ }).waitFor();
      await page.locator('.live .status.ok').waitFor();
    },
  },
  {
    name: 'a session that ends in a dialog’s form: asked in place, and what was sent is sent then, once',
    async run({ page, origin, server }) {
      const { form, send } = await filled(page, origin, 41);
      await endSessions(server);
      await send.click();
      const dialog = page.getByRole('dialog', { name: 'Your session has ended' });
      await dialog.waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await shot(page, `session-ended-${name}`);
      }
      // A code that is not one is said in the dialog; what is behind it stays.
      await dialog.getByLabel('Sign-in link or code').fill('no-such-code');
      await page.keyboard.press('Enter');
      await dialog.locator('.field-error').waitFor();
      assert.equal(await form.getByLabel('Devices').inputValue(), '41');
      assert.equal(await form.getByLabel('Tags').inputValue(), 'site=Oslo 1');
      await signInAgain(page, server);
      await page.getByRole('dialog', { name: 'The factory bundle, shown once' }).waitFor();
      assert.equal((await tokens(server)).filter((token) => token.uses === 41).length, 1);
    },
  },
  {
    name: 'a session that ends in a page’s form: kept over a declined sign-in as well',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/datasets/new`);
      await page.getByLabel('Name').fill('kept');
      await page.getByLabel('Classes').fill('one, two');
      await endSessions(server);
      await page.getByRole('button', { name: 'Make the dataset' }).click();
      const dialog = page.getByRole('dialog', { name: 'Your session has ended' });
      await dialog.getByRole('button', { name: 'Leave' }).click();
      await page.getByRole('heading', { name: 'Sign in' }).waitFor();
      await page.getByLabel('Sign-in link or code').fill((await server.call('POST', '/api/v1/sign-in-links')).code);
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: 'New dataset' }).waitFor();
      assert.equal(await page.getByLabel('Name').inputValue(), 'kept', 'a draft outlives the session');
      await endSessions(server);
      await page.getByRole('button', { name: 'Make the dataset' }).click();
      await signInAgain(page, server);
      await page.waitForURL(/\/datasets\/kept/);
      assert.deepEqual((await server.call('GET', '/api/v1/datasets/kept')).labels, ['one', 'two']);
    },
  },
  {
    name: 'a session that ends under an upload: the file is sent again after signing in',
    async run({ page, origin, server }) {
      await server.call('POST', '/api/v1/datasets', { name: 'upload', labels: ['a', 'b'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      await page.goto(`${origin}/datasets/upload?tab=import`);
      await page.setInputFiles('input[type=file]', { name: 'rows.csv', mimeType: 'text/csv', buffer: Buffer.from('x,y\n1,2\n3,4\n') });
      await page.getByRole('heading', { name: 'rows.csv' }).waitFor();
      await endSessions(server);
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await signInAgain(page, server);
      await page.getByText('rows.csv is in').waitFor();
      assert.equal((await server.call('GET', '/api/v1/datasets/upload')).samples, 2);
    },
  },
  {
    name: 'the other tab’s sign-in is this tab’s as well',
    async run({ page, context, origin, server }) {
      await page.goto(`${origin}/devices`);
      await inState(page, 'empty');
      await endSessions(server);
      await page.keyboard.press('/');
      // In one go: the dialog takes the keys as soon as the first question is refused.
      await page.keyboard.insertText('status:alert ');
      await page.getByRole('dialog', { name: 'Your session has ended' }).waitFor();
      const other = await context.newPage();
      await other.goto(await server.signInLink());
      await other.waitForSelector('.app');
      await page.getByRole('dialog', { name: 'Your session has ended' }).waitFor({ state: 'detached' });
      await page.getByText('No device matches this filter.').waitFor();
      await other.close();
      await until('the session', async () => (await server.call('GET', '/api/v1/sessions?limit=100')).items.length === 1);
    },
  },
];
