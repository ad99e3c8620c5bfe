// A newcomer: the fleet is empty, the overview leads to the first claim token, by keys alone. Runs before any agent joins.
import assert from 'node:assert/strict';
import { accessible, inState, shot, theme } from '../checks.mjs';
import { importRows, labelRows, signed, trainRows } from '../model.mjs';

const THEMES = ['light', 'dark'];

export const checks = [
  {
    name: 'an empty fleet leads by the hand, on a phone too',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/`);
        await accessible(page, 'empty', name);
        await page.getByText('Enrol the first device').waitFor();
        await page.getByText(/fleetctl tokens create --uses 1/).waitFor();
        await shot(page, `overview-empty-${name}`);
      }
      // One step is open, the next one; the others open when asked.
      assert.equal(await page.locator('.overview-step details[open]').count(), 1);
      await page.getByText('Bring the first dataset').click();
      await page.getByText(/fleetctl datasets import/).waitFor();
      await page.setViewportSize({ width: 390, height: 844 });
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, 'nothing is wider than a phone');
    },
  },
  {
    name: 'from there to a claim token by keys alone; its bundle is shown once',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/`);
      await inState(page, 'empty');
      await page.getByRole('link', { name: 'Make a claim token' }).focus();
      await page.keyboard.press('Enter');
      const form = page.getByRole('dialog', { name: 'New claim token' });
      await form.getByLabel('Devices').waitFor();
      await page.keyboard.press('Control+a');
      await page.keyboard.type('0');
      await page.keyboard.press('Enter');
      await form.getByText('A whole number, at least 1.').waitFor();
      await page.keyboard.press('Control+a');
      await page.keyboard.type('3');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Tab');
      await page.keyboard.type('site=Oslo 1');
      await form.getByText("--tag 'site=Oslo 1'").waitFor();
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      const bundle = page.getByRole('dialog', { name: 'The factory bundle, shown once' });
      await bundle.getByRole('img', { name: /QR code/ }).waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await shot(page, `provisioning-bundle-${name}`);
      }
      // Only its own button closes it: Escape would lose the secret.
      await page.keyboard.press('Escape');
      assert.equal(await bundle.isVisible(), true);
      const download = page.waitForEvent('download');
      await bundle.getByRole('link', { name: 'Download factory.json' }).click();
      assert.equal((await download).suggestedFilename(), 'factory.json');
      await bundle.getByRole('button', { name: 'Done' }).click();
      await bundle.waitFor({ state: 'detached' });
      const kept = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }) + document.body.innerHTML);
      assert.equal(kept.includes('claim_token'), false, 'nothing of the secret stays in the page');
      const { items } = await server.call('GET', '/api/v1/claim-tokens');
      assert.equal(items[0].uses, 3);
      assert.deepEqual(items[0].tags, { site: 'Oslo 1' });
    },
  },
  {
    name: 'and on by the hand to the first device, dataset, model and rollout; the overview follows by itself',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/`);
      const step = (title) => page.locator('.overview-step[aria-current=step]').filter({ hasText: title });
      /** The step is next; its button leads where it is done. */
      const leads = async (title, heading) => {
        await step(title).waitFor();
        assert.equal(await page.locator('.overview-step[aria-current=step]').count(), 1);
        await step(title).locator('.button.primary').click();
        await page.getByRole('heading', { level: 1, name: heading }).waitFor();
        await page.goBack();
        await step(title).waitFor();
      };
      await leads('Enrol the first device', 'Provisioning');
      await server.addAgent('first-device');
      await leads('Bring the first dataset', 'Datasets');
      const dataset = await importRows(server, 'first-line');
      await leads('Label samples', 'Labeling');
      await labelRows(server, dataset);
      await leads('Train the first model', 'Runs');
      const run = await trainRows(server, dataset, 'first-line');
      await leads('Package and sign it', 'Registry');
      const version = await signed(server, 'first-line', { run, semver: '1.0.0' });
      await leads('Roll it out', 'New rollout');
      const rollout = await server.call('POST', '/api/v1/rollouts', { model_version: version });
      await server.call('POST', `/api/v1/rollouts/${rollout.id}/start`);
      await page.getByText('First steps').waitFor({ state: 'detached' });
      await page.getByText('1 device in the fleet').waitFor();
    },
  },
];
