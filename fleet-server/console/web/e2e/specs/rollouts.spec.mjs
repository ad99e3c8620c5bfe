// Rollouts with a real signed model and real agents: planned, started, halted by its gate, resumed and aborted, by mouse and by
// keys; every state in both themes.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';
import { signedModel } from '../model.mjs';
import { until } from '../server.mjs';

const THEMES = ['light', 'dark'];
const LINE = 'bench-rollouts';

/** Kept between the checks of this file. */
const made = { version: undefined, ghost: undefined, halted: undefined };

async function bothThemes(page, address, state, name) {
  for (const each of THEMES) {
    await theme(page, each);
    await page.goto(address);
    await accessible(page, state, each);
    await small(page);
    await shot(page, `${name}-${each}`);
  }
  await theme(page, 'light');
}

async function narrow(page, address) {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto(address);
  await inState(page, 'full');
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, 'nothing is wider than a phone');
  await page.setViewportSize({ width: 1440, height: 900 });
}

export const checks = [
  {
    name: 'a fleet without rollouts says what to do, and so does an id that is none',
    async run({ page, origin, server }) {
      const { items } = await server.call('GET', '/api/v1/rollouts');
      // Older than any: checks before this one may have made some.
      await bothThemes(page, `${origin}/rollouts${items.length === 0 ? '' : '?before=00000000-0000-7000-8000-000000000000'}`, 'empty', 'rollouts-empty');
      await bothThemes(page, `${origin}/rollouts/01a2071b-0e99-77d6-aa1f-7d66eec32b7b`, 'empty', 'rollout-missing');
      // The key for what is new, as in other lists; who may not operate has neither it nor the button.
      await page.goto(`${origin}/rollouts`);
      await page.getByRole('link', { name: 'New rollout' }).waitFor();
      await page.keyboard.press('n');
      await page.getByRole('heading', { name: 'New rollout', exact: true }).waitFor();
      await page.route('**/api/v1/session', async (route) => {
        const session = await (await route.fetch()).json();
        await route.fulfill({ json: { ...session, capabilities: ['read'] } });
      });
      await page.goto(`${origin}/rollouts`);
      await page.getByRole('grid', { name: 'Rollouts' }).waitFor();
      assert.equal(await page.getByRole('link', { name: 'New rollout' }).count(), 0);
      await page.keyboard.press('?');
      const keys = page.getByRole('dialog', { name: 'Keys' });
      await keys.getByText('Go to Rollouts').waitFor();
      assert.equal(await keys.getByText('New rollout').count(), 0);
      await page.unroute('**/api/v1/session');
    },
  },
  {
    name: 'a plan counts what it reaches, says what is wrong, survives a reload and is made',
    async run({ page, origin, server }) {
      made.version = await signedModel(server, LINE);
      await server.addAgent('press-1');
      made.ghost = await server.addAgent('press-2');
      await until('the agents', async () => (await server.call('GET', '/api/v1/devices?filter=id:press-*%20status:online')).total === 2);
      await page.goto(`${origin}/rollouts/new?version=${made.version}&filter=${encodeURIComponent('id:press-* status:online')}`);
      await inState(page, 'full');
      const target = page.getByLabel('Target');
      // A target cannot say who is online: it is not widened to all that begin so, unless somebody says so.
      await page.getByText('No target says').waitFor();
      assert.equal(await target.inputValue(), '');
      await page.getByRole('button', { name: 'device.id.startsWith("press-")', exact: true }).first().click();
      assert.equal(await target.inputValue(), 'device.id.startsWith("press-")');
      await page.getByText('2 devices match now').waitFor();
      await page.getByText(/fleetctl rollouts create --model-version/).waitFor();
      await page.getByLabel('Soak').fill('-1');
      await page.getByRole('button', { name: 'Make the draft' }).click();
      await page.getByText('Seconds, at most 30 days.').waitFor();
      await page.getByLabel('Soak').fill('1');
      await page.getByLabel('Silence').fill('3');
      await target.fill('device.id.startsWith("press-") && device.arch != "none"');
      await page.reload();
      assert.equal(await page.getByLabel('Target').inputValue(), 'device.id.startsWith("press-") && device.arch != "none"');
      await bothThemes(page, page.url(), 'full', 'rollout-plan');
      await narrow(page, page.url());
      // The preview is the server's: also what no device filter says is counted, and what its compiler refuses is said before sending.
      const preview = page.getByRole('region', { name: 'Preview' });
      await page.getByLabel('Target').fill('device.id in ["press-2", "nobody"]');
      await preview.getByText('1 device matches now').waitFor();
      await preview.getByText(/fleetctl rollouts preview --model-version \S+ --target/).waitFor();
      await page.getByLabel('Target').fill('device.colour == "red"');
      await preview.getByText('The server cannot say whom this reaches').waitFor();
      assert.equal(await preview.getAttribute('data-state'), 'error');
      await page.getByRole('button', { name: 'Make the draft' }).click();
      await page.locator('.form [data-state=error]').waitFor();
      await page.getByLabel('Target').fill('device.id.startsWith("press-")');
      await preview.getByText('2 devices match now').waitFor();
      await preview.getByText('Nothing stands in their way').waitFor();
      const first = await preview.locator('.ro-first .tag').allInnerTexts();
      await page.getByText(/fleetctl rollouts create .*--seed \d+/).waitFor();
      await page.getByRole('button', { name: 'Make the draft' }).click();
      await page.waitForURL(/\/rollouts\/[0-9a-f-]{36}$/);
      await page.getByText('Draft', { exact: true }).waitFor();
      const [draft] = (await server.call('GET', '/api/v1/rollouts')).items;
      assert.equal(draft.state, 'draft', 'nothing starts by itself');
      // With the preview's seed: the devices that it named are the ones that the rollout begins with.
      assert.deepEqual((await server.call('POST', '/api/v1/rollouts/preview', draft.spec)).first, first);
      await preview.getByText('2 devices match now').waitFor();
      assert.deepEqual(await preview.locator('.ro-first .tag').allInnerTexts(), first);
    },
  },
  {
    name: 'start, halt by a gate, failures by cause, abort by its typed name: by keys alone',
    async run({ page, origin, server }) {
      // A device that is gone: its phase cannot succeed.
      made.ghost.child.kill('SIGKILL');
      const { id } = (await server.call('GET', '/api/v1/rollouts')).items[0];
      made.halted = id;
      await page.goto(`${origin}/rollouts/${id}`);
      await inState(page, 'full');
      await page.keyboard.press('s');
      const dialog = page.getByRole('dialog');
      await dialog.getByText(`fleetctl rollouts start ${id}`).waitFor();
      await dialog.getByRole('button', { name: 'Start', exact: true }).focus();
      await page.keyboard.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      await page.getByText('Halted', { exact: true }).first().waitFor();
      const { decision } = await server.call('GET', `/api/v1/rollouts/${id}`);
      assert.equal((await page.locator('.ro-decision').innerText()).trim(), decision, 'the planner’s word, as it is');
      await page.getByRole('heading', { name: 'Failures by cause' }).waitFor();
      await page.locator('.ro-causes').getByText(/nothing was heard of the device for/).waitFor();
      await page.getByRole('link', { name: 'press-2' }).first().waitFor();
      await page.getByRole('button', { name: /^Failed/ }).press('Enter');
      await page.waitForURL(/show=failed/);
      const grid = page.getByRole('grid', { name: 'Deployments' });
      await grid.getByRole('row', { name: /press-2/ }).waitFor();
      const { items: causes } = await server.call('GET', `/api/v1/rollouts/${id}/failures`);
      await page.getByRole('button', { name: /^Show .*: failed for/ }).first().press('Enter');
      await page.waitForURL((url) => url.searchParams.get('cause') === causes[0].cause);
      await page.getByText(`fleetctl rollouts deployments ${id} --state failure,rolled-back '--cause=`).waitFor();
      await page.locator('.ro-deployments').getByText(causes[0].count === 1 ? '1 device' : `${causes[0].count} devices`, { exact: true }).waitFor();
      await page.getByRole('button', { name: /: show every cause$/ }).press('Enter');
      await page.waitForURL((url) => !url.searchParams.has('cause'));
      await bothThemes(page, `${origin}/rollouts/${id}`, 'full', 'rollout-halted');
      await bothThemes(page, `${origin}/rollouts`, 'full', 'rollouts');
      await page.goto(`${origin}/rollouts`);
      await page.getByRole('group', { name: 'Show rollouts' }).getByRole('button', { name: 'Halted' }).press('Enter');
      await page.waitForURL(/state=halted/);
      await page.getByText('fleetctl rollouts list --state halted').first().waitFor();
      await page.getByText('1 halted, newest first').waitFor();
      await page.getByRole('button', { name: 'Completed', exact: true }).press('Enter');
      await page.getByText('No rollout is completed.').waitFor();
      await narrow(page, `${origin}/rollouts/${id}`);
      await page.goto(`${origin}/rollouts/${id}`);
      await inState(page, 'full');
      // Nothing changes on the screen before the server has answered.
      let answer;
      const held = new Promise((resolve) => (answer = resolve));
      await page.route('**/abort', async (route) => {
        await held;
        await route.continue();
      });
      await page.keyboard.press('b');
      const confirm = dialog.getByRole('button', { name: 'Abort the rollout' });
      assert.equal(await confirm.isDisabled(), true);
      await page.keyboard.type(`${LINE} 1.0.0`);
      const asked = page.waitForRequest('**/abort');
      await page.keyboard.press('Enter');
      await asked;
      assert.equal(await page.locator('.page-note').getByText('Halted').count(), 1, 'not optimistic');
      answer();
      await page.locator('.page-note').getByText('Aborted').waitFor();
      assert.equal(await page.getByRole('button', { name: 'Resume…' }).count(), 0);
    },
  },
  {
    name: 'a refusal stays in the dialog, in the server’s words',
    async run({ page, origin, server }) {
      const spec = { model_version: made.version, target: 'device.id == "nobody"' };
      const { id } = await server.call('POST', '/api/v1/rollouts', spec);
      await server.call('POST', `/api/v1/rollouts/${id}/start`);
      await page.goto(`${origin}/rollouts/${id}`);
      await page.getByText('no device matches the target expression; waiting for one').waitFor();
      await page.getByRole('button', { name: 'Pause…' }).click();
      await page.route('**/pause', (route) =>
        route.fulfill({
          status: 409,
          contentType: 'application/problem+json',
          body: JSON.stringify({ type: 'urn:flotilla:problem:conflict', title: 'Conflict', status: 409, detail: 'it cannot be paused' }),
        }),
      );
      await page.getByRole('dialog').getByRole('button', { name: 'Pause', exact: true }).click();
      await page.getByRole('dialog').getByText('it cannot be paused').waitFor();
      await page.unroute('**/pause');
      await page.getByRole('dialog').getByRole('button', { name: 'Pause', exact: true }).click();
      await page.locator('.page-note').getByText('Paused').waitFor();
      await server.call('POST', `/api/v1/rollouts/${id}/abort`);
      // Without a reload: the event tells.
      await page.locator('.page-note').getByText('Aborted').waitFor();
    },
  },
  {
    name: 'loading and error, in both themes',
    async run({ page, origin }) {
      for (const [address, api] of [
        ['/rollouts', '**/api/v1/rollouts?**'],
        ['/rollouts/01a2071b-0e99-77d6-aa1f-7d66eec32b7b', '**/api/v1/rollouts/01a2071b*'],
        ['/rollouts/new', '**/api/v1/models?**'],
      ]) {
        for (const name of THEMES) {
          await theme(page, name);
          await page.route(api, () => new Promise(() => undefined));
          await page.goto(`${origin}${address}`);
          await accessible(page, 'loading', name);
          await page.unroute(api);
          await page.route(api, (route) =>
            route.fulfill({
              status: 403,
              contentType: 'application/problem+json',
              body: JSON.stringify({ type: 'about:blank', title: 'Forbidden', status: 403, detail: 'rollouts are not yours to see' }),
            }),
          );
          await page.goto(`${origin}${address}`);
          await accessible(page, 'error', name);
          await page.getByText('rollouts are not yours to see').waitFor();
          await page.unroute(api);
        }
      }
    },
  },
];
