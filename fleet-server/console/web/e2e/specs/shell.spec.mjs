// The frame: keys, palette, themes, titles, phone, an address that leads nowhere.
import assert from 'node:assert/strict';
import { accessible, inState, theme } from '../checks.mjs';

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
      assert.equal(await page.evaluate(() => document.activeElement?.tagName), 'H1', 'the heading has the focus');
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
      for (const name of ['light', 'dark']) {
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
    name: 'the sign-in screen is accessible and says where a link comes from',
    async run({ page, origin }) {
      await page.route('**/api/v1/session', (route) =>
        route.fulfill({ status: 401, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Unauthorized', status: 401, detail: 'sign in' }) }),
      );
      for (const name of ['light', 'dark']) {
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
      await inState(page, 'full').catch(() => inState(page, 'empty'));
      await context.clearCookies();
      await page.keyboard.press('/');
      await page.keyboard.type('kept');
      const dialog = page.getByRole('dialog', { name: 'Your session has ended' });
      await dialog.waitFor();
      await dialog.getByLabel('Sign-in link or code').fill(await server.signInLink());
      await dialog.getByRole('button', { name: 'Sign in', exact: true }).click();
      await dialog.waitFor({ state: 'detached' });
      assert.match(await page.getByRole('combobox', { name: 'Filter devices' }).inputValue(), /kept/);
    },
  },
];
