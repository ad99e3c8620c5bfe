// The frame: keys, palette, themes, titles, phone, an address that leads nowhere.
import assert from 'node:assert/strict';
import { accessible, inState, theme } from '../checks.mjs';

const THEMES = ['light', 'dark'];

export const checks = [
  {
    name: 'keys lead to screens, the palette too, and Enter there presses nothing behind it',
    async run({ page, origin }) {
      await theme(page, 'light');
      await page.goto(`${origin}/nowhere`);
      await page.getByRole('heading', { name: 'Not here' }).waitFor();
      await page.keyboard.press('g');
      await page.keyboard.press('d');
      await page.getByRole('heading', { name: 'Devices', exact: true }).waitFor();
      assert.equal(await page.title(), 'Devices · Flotilla');
      // The heading has the focus once the screen's own code is here.
      await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
      // The theme button is focused, then Enter chooses in the palette: the theme must stay.
      await page.getByRole('button', { name: 'Switch to dark' }).focus();
      await page.keyboard.press('Control+k');
      await page.keyboard.type('go to dev');
      await page.keyboard.press('Enter');
      await page.waitForSelector('dialog.palette', { state: 'detached' });
      await page.getByRole('button', { name: 'Switch to dark' }).waitFor();
      assert.equal(new URL(page.url()).pathname, '/devices');
    },
  },
  {
    name: 'a key pressed before the code of its screen is here does what it says once it is',
    async run({ page, origin }) {
      let come;
      const held = new Promise((resolve) => (come = resolve));
      await page.route(/\/assets\/runs-[^/]*\.js$/, async (route) => {
        await held;
        await route.fallback();
      });
      await page.goto(`${origin}/sessions`);
      await inState(page, 'full');
      await page.keyboard.press('g');
      await page.keyboard.press('r');
      await page.getByRole('heading', { name: 'Runs', exact: true }).waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'code', name);
      }
      await page.keyboard.press('n');
      come();
      await page.getByRole('heading', { name: 'New run', exact: true }).waitFor();
      assert.equal(new URL(page.url()).pathname, '/runs/new');
    },
  },
  {
    name: 'keys are off inside inputs',
    async run({ page, origin }) {
      await page.goto(`${origin}/devices`);
      await page.getByRole('combobox', { name: 'Filter devices' }).waitFor();
      await page.keyboard.press('/');
      await page.keyboard.type('g d?');
      assert.equal(await page.getByRole('combobox', { name: 'Filter devices' }).inputValue(), 'g d?');
      assert.equal(await page.locator('dialog[open]').count(), 0);
      await page.keyboard.press('Control+a');
      await page.keyboard.type('z');
      assert.equal(await page.getByRole('combobox', { name: 'Filter devices' }).inputValue(), 'z');
    },
  },
  {
    name: 'the overlay of keys, a wrong address and the phone layout are accessible',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/nowhere`);
        await accessible(page, 'empty', name);
        await page.keyboard.press('?');
        await page.getByRole('dialog', { name: 'Keys' }).waitFor();
        await accessible(page, 'empty', name);
      }
      await page.setViewportSize({ width: 390, height: 844 });
      await page.goto(`${origin}/devices`);
      await page.getByRole('button', { name: 'Menu' }).click();
      await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Devices' }).click();
      await page.waitForSelector('.drawer-open', { state: 'detached' });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
      assert.equal(wide, false, 'nothing is wider than a phone');
    },
  },
  {
    name: 'at 720 px the drawer takes the focus, keeps it and gives it back, by keys alone',
    async run({ page, origin }) {
      await page.setViewportSize({ width: 720, height: 900 });
      await page.goto(`${origin}/sessions`);
      await inState(page, 'full');
      const menu = page.getByRole('button', { name: 'Menu', exact: true });
      const drawer = page.getByRole('dialog', { name: 'Menu', exact: true });
      const open = async () => {
        await menu.focus();
        await page.keyboard.press('Enter');
        await drawer.waitFor();
      };
      /** What has the focus, if it is in the drawer. */
      const focused = () => page.evaluate(() => document.activeElement?.closest('.side') && document.activeElement.textContent.trim());
      await open();
      assert.ok(await focused(), 'the focus is in the drawer');
      const links = await drawer.getByRole('link').count();
      const seen = new Set();
      for (let tabs = 0; tabs < 2 * links; tabs += 1) {
        await page.keyboard.press('Tab');
        const at = await focused();
        assert.ok(at, `after ${tabs + 1} tabs the focus is outside`);
        seen.add(at);
      }
      assert.equal(seen.size, links, 'every entry is reached');
      for (let tabs = 0; tabs <= links; tabs += 1) {
        await page.keyboard.press('Shift+Tab');
        assert.ok(await focused(), 'backwards as well');
      }
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
      }
      await page.keyboard.press('Escape');
      await drawer.waitFor({ state: 'detached' });
      assert.equal(await menu.evaluate((button) => button === document.activeElement), true, 'the focus is back at the button');
      // Who goes somewhere is there: with an entry, and with keys.
      await open();
      while ((await focused()) !== 'Runs') await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: 'Runs', exact: true }).waitFor();
      await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
      await drawer.waitFor({ state: 'detached' });
      await open();
      await page.keyboard.press('g');
      await page.keyboard.press('s');
      await page.getByRole('heading', { name: 'Sessions', exact: true }).waitFor();
      await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
      // In a window that is made wider the page is no longer behind anything.
      await open();
      await page.setViewportSize({ width: 1440, height: 900 });
      await drawer.waitFor({ state: 'detached' });
      await page.getByRole('button', { name: /^Account/ }).click();
      await page.getByRole('menuitem', { name: 'Sign out' }).waitFor();
    },
  },
  {
    name: 'the sign-in screen is accessible and says where a link comes from',
    async run({ page, origin }) {
      await page.route('**/api/v1/session', (route) =>
        route.fulfill({ status: 401, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Unauthorized', status: 401, detail: 'sign in' }) }),
      );
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/devices`);
        await page.getByRole('heading', { name: 'Sign in' }).waitFor();
        await page.getByText('fleetctl console').waitFor();
        await accessible(page, 'sign-in', name);
      }
    },
  },
  {
    name: 'an expired session asks again in place and loses nothing',
    async run({ page, context, origin, server }) {
      await page.goto(`${origin}/devices?filter=edge`);
      await Promise.any([inState(page, 'full'), inState(page, 'empty')]);
      await page.keyboard.press('/');
      await context.clearCookies();
      // In one go: the dialog takes the keys as soon as something is refused.
      await page.keyboard.insertText('kept');
      const dialog = page.getByRole('dialog', { name: 'Your session has ended' });
      await dialog.waitFor();
      // Said to be signed in elsewhere, and it is not so.
      await dialog.getByRole('button', { name: 'I signed in in another tab' }).click();
      await dialog.getByText('No session was found').waitFor();
      await dialog.getByLabel('Sign-in link or code').fill(await server.signInLink());
      await dialog.getByRole('button', { name: 'Sign in', exact: true }).click();
      await dialog.waitFor({ state: 'detached' });
      assert.match(await page.getByRole('combobox', { name: 'Filter devices' }).inputValue(), /kept/);
    },
  },
  {
    name: 'without Web Locks eight tabs share a stream too, and another tab takes over',
    async run({ context, origin }) {
      const pages = await Promise.all(Array.from({ length: 8 }, () => context.newPage()));
      const readers = [];
      for (const page of pages) {
        await page.addInitScript(() => Object.defineProperty(Navigator.prototype, 'locks', { value: undefined }));
        page.on('request', (request) => request.url().endsWith('/api/v1/events') && readers.push(page));
      }
      for (const page of pages) {
        await page.goto(`${origin}/devices`);
        await page.locator('.live .status.ok').waitFor({ timeout: 15_000 });
      }
      assert.deepEqual(readers, [pages[0]], 'the first one reads for all');
      const next = Promise.any(pages.slice(1).map((page) => page.waitForRequest('**/api/v1/events')));
      await pages[0].close();
      await next;
      for (const page of pages.slice(1)) {
        await page.locator('.live .status.ok').waitFor({ timeout: 15_000 });
        await page.close();
      }
    },
  },
  {
    name: 'a hidden tab that leads does not hold back one that is seen',
    async run({ page, context, origin, server }) {
      const hidden = await context.newPage();
      // Browsers let timers of a hidden tab run up to a minute late: here they never do.
      await hidden.addInitScript(() => {
        Object.defineProperty(Document.prototype, 'hidden', { get: () => true });
        const real = globalThis.setTimeout;
        globalThis.setTimeout = (run, ms, ...rest) => (ms >= 400 ? 0 : real(run, ms, ...rest));
      });
      await hidden.goto(`${origin}/devices`);
      await hidden.locator('.live .status.ok').waitFor();
      await page.goto(`${origin}/devices`);
      await page.locator('.live .status.ok').waitFor();
      await server.stopServer();
      await page.locator('.live .status.busy, .live .status.bad').waitFor({ timeout: 20_000 });
      await server.startAgain();
      await page.locator('.live .status.ok').waitFor({ timeout: 40_000 });
      await hidden.close();
    },
  },
  {
    name: 'a session that is ended elsewhere is said, and signing in makes the tab live again',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/devices`);
      await page.locator('.live .status.ok').waitFor();
      const own = await page.evaluate(async () => (await (await fetch('/api/v1/sessions')).json()).items.find((item) => item.current).id);
      await server.call('DELETE', `/api/v1/sessions/${own}`);
      await page.locator('.live').getByText('Signed out').waitFor({ timeout: 20_000 });
      await page.evaluate((link) => location.assign(link), await server.signInLink());
      await page.locator('.live .status.ok').waitFor({ timeout: 20_000 });
      assert.equal(await page.locator('dialog[open]').count(), 0);
    },
  },
  {
    name: 'a sign-in link pasted into an open tab is used; one that is used up leaves the session as it is',
    async run({ page, context, origin, server }) {
      await page.goto(`${origin}/`);
      await page.waitForSelector('.app');
      const link = await server.signInLink();
      await page.evaluate((to) => location.assign(to), link);
      await page.waitForFunction(() => location.hash === '');
      // Used up now, in this tab and when a tab is opened with it.
      await page.evaluate((to) => location.assign(to), link);
      await page.getByText(/You are still signed in as/).waitFor();
      const other = await context.newPage();
      await other.goto(link);
      await other.getByText(/You are still signed in as/).waitFor();
      await other.close();
      await context.clearCookies();
      await page.goto(link);
      await page.reload();
      await page.getByRole('heading', { name: 'Sign in' }).waitFor();
      await page.evaluate(() => location.assign('#/sign-in/%'));
      await page.locator('.field-error').waitFor();
      await accessible(page, 'sign-in');
      await page.evaluate((to) => location.assign(to), await server.signInLink());
      await page.waitForSelector('.app');
    },
  },
  {
    name: 'signing out that fails is not said to have happened, and can be tried again',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/devices`);
      await Promise.any([inState(page, 'full'), inState(page, 'empty')]);
      await page.route('**/api/v1/session', (route) => (route.request().method() === 'DELETE' ? route.abort() : route.continue()));
      await page.getByRole('button', { name: /^Account/ }).click();
      await page.getByRole('menuitem', { name: 'Sign out' }).click();
      const dialog = page.getByRole('dialog', { name: 'You are still signed in' });
      await dialog.getByText(/does not answer/).waitFor();
      await accessible(page, await page.locator('#main [data-state]').first().getAttribute('data-state'));
      await page.unroute('**/api/v1/session');
      await dialog.getByRole('button', { name: 'Try again' }).click();
      await page.getByRole('heading', { name: 'Sign in' }).waitFor();
      assert.equal(await page.evaluate(async () => (await fetch('/api/v1/session')).status), 401);
      await page.goto(await server.signInLink());
      await page.waitForSelector('.app');
    },
  },
  {
    name: 'single keys can be switched off, and stay off',
    async run({ page, origin }) {
      const toggle = async (before) => {
        await page.getByRole('button', { name: /^Account/ }).click();
        await page.getByRole('menuitemcheckbox', { name: 'Single-key shortcuts', checked: before }).click();
      };
      await page.goto(`${origin}/sessions`);
      await page.getByRole('heading', { name: 'Sessions', exact: true }).waitFor();
      await toggle(true);
      await page.reload();
      await page.getByRole('heading', { name: 'Sessions', exact: true }).waitFor();
      await page.keyboard.press('?');
      await page.keyboard.press('g');
      await page.keyboard.press('d');
      // With Ctrl keys work; the palette says what the keys would be.
      await page.keyboard.press('Control+k');
      await page.waitForSelector('dialog.palette');
      assert.equal(new URL(page.url()).pathname, '/sessions');
      await page.keyboard.type('show the keys');
      await page.keyboard.press('Enter');
      const keys = page.getByRole('dialog', { name: 'Keys' });
      await keys.getByText(/switched off/).waitFor();
      await page.keyboard.press('Escape');
      await keys.waitFor({ state: 'detached' });
      await toggle(false);
      await page.keyboard.press('g');
      await page.keyboard.press('d');
      await page.getByRole('heading', { name: 'Devices', exact: true }).waitFor();
    },
  },
];
