// Drift of a real agent that is sent data its model was not trained on: from the list to the labeling queue, by keys alone;
// every state in both themes.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';
import { infer, signedModel } from '../model.mjs';
import { until } from '../server.mjs';
import { settled } from '../texts.mjs';

const THEMES = ['light', 'dark'];
const LINE = 'bench-drift';
const DEVICE = 'drift-1';

/** Observations far from what the model knows. */
function strangeData(server) {
  const samples = Array.from({ length: 64 }, (_unused, row) => [0, 1, 2, 3].map((column) => 40 + Math.sin(row * 4 + column) * 3));
  return infer(server, DEVICE, samples, [4]);
}

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

/** Kept between the checks of this file. */
const made = { manifest: '' };

export const checks = [
  {
    name: 'a fleet without judgements says why',
    async run({ page, origin }) {
      await bothThemes(page, `${origin}/drift`, 'empty', 'drift-empty');
      await page.getByText('fleetctl drift list').waitFor();
    },
  },
  {
    name: 'a device that sees strange data stands first, and the way to its labels goes by keys alone',
    async run({ page, origin, server }) {
      const version = await signedModel(server, LINE);
      made.manifest = (await server.call('GET', `/api/v1/model-versions/${version}`)).manifest;
      await server.addAgent(DEVICE);
      const { id } = await server.call('POST', '/api/v1/rollouts', {
        model_version: version,
        target: `device.id == "${DEVICE}"`,
        soak_s: 0,
        harvest: { on_drift: true, max_samples: 20 },
      });
      await server.call('POST', `/api/v1/rollouts/${id}/start`);
      await until('the rollout', async () => (await server.call('GET', `/api/v1/rollouts/${id}`)).state === 'completed');
      await page.goto(`${origin}/drift`);
      await inState(page, 'empty');
      await strangeData(server);
      await until('the judgement', async () => {
        await strangeData(server);
        return (await server.call('GET', '/api/v1/drift')).items.some((judged) => judged.drifted);
      });
      // Without a reload.
      await page.getByRole('row', { name: new RegExp(`${DEVICE}.*Drifted`) }).waitFor();
      await until('the harvest', async () => {
        await strangeData(server);
        return (await server.call('GET', `/api/v1/datasets/${LINE}`)).slices['harvest/1.0.0'] > 0;
      });
      await bothThemes(page, `${origin}/drift`, 'full', 'drift');
      // As other screens link to it: what they mean is a term of the filter.
      await page.goto(`${origin}/drift?show=drifted`);
      await page.getByText('fleetctl drift list --filter drifted:yes --sort=-severity', { exact: true }).waitFor();
      assert.equal(await page.getByLabel('Filter judgements').inputValue(), 'drifted:yes');
      await page.getByRole('row', { name: new RegExp(DEVICE) }).waitFor();
      await page.keyboard.press('j');
      await page.keyboard.press('Home');
      await page.keyboard.press('Enter');
      await page.waitForURL(new RegExp(`/drift/${DEVICE}/`));
      await inState(page, 'full');
      await page.getByText(`fleetctl labels queue ${LINE} --slice harvest/1.0.0`).waitFor();
      await page.keyboard.press('n');
      await page.waitForURL(/\/datasets\/[^/]+\/labeling\?slice=harvest%2F1\.0\.0/);
    },
  },
  {
    name: 'the list is filtered and sorted by the server, and what it is asked stands in the address',
    async run({ page, origin }) {
      await page.goto(`${origin}/drift`);
      await page.getByRole('row', { name: new RegExp(DEVICE) }).waitFor();
      await page.getByRole('button', { name: 'No drift' }).press('Enter');
      await page.waitForURL(/filter=drifted%3Ano/);
      await inState(page, 'empty');
      await page.getByRole('button', { name: 'Show all' }).press('Enter');
      await page.waitForURL((url) => !url.searchParams.has('filter'));
      await page.getByRole('button', { name: /^Judged/ }).press('Enter');
      await page.waitForURL(/sort=at/);
      await page.getByRole('row', { name: new RegExp(DEVICE) }).waitFor();
      await page.goto(`${origin}/drift?filter=${encodeURIComponent('site:oslo ')}`);
      await page.getByText("judgements have no field 'site'").first().waitFor();
    },
  },
  {
    name: 'features by severity with shared bins, classes, and the statistic of one, in both themes and on a phone',
    async run({ page, origin }) {
      const address = `${origin}/drift/${DEVICE}/${encodeURIComponent(made.manifest)}`;
      await bothThemes(page, address, 'full', 'drift-device');
      const figures = await page.locator('.dr-feature header .num').allInnerTexts();
      const values = figures.map((text) => Number(text.replace('PSI ', '')));
      assert.deepEqual(values, [...values].sort((left, right) => right - left), 'the furthest first');
      assert.equal(await page.locator('.dr-feature [role=img]').count(), values.length);
      await page.getByRole('button', { name: 'Over time: a' }).press('Enter');
      await page.waitForURL(/feature=a/);
      await page.getByText(/fleetctl drift series .* --feature a/).waitFor();
      await page.getByRole('button', { name: 'Share per bin' }).press('Enter');
      await page.waitForURL(/axis=bins/);
      await page.getByRole('list', { name: /Share of predictions per class/ }).waitFor();
      await bothThemes(page, `${origin}/drift/*/${LINE}`, 'full', 'drift-fleet');
      // By its digest too, whoever has judged it.
      await page.goto(`${origin}/drift/*/${encodeURIComponent(made.manifest)}`);
      await page.getByText(`${LINE} 1.0.0`, { exact: true }).first().waitFor();
      await page.getByText(`fleetctl labels queue ${LINE} --slice harvest/1.0.0`, { exact: true }).waitFor();
      await bothThemes(page, `${origin}/drift/nobody/${LINE}`, 'empty', 'drift-nobody');
      await page.setViewportSize({ width: 390, height: 844 });
      for (const each of [address, `${origin}/drift`]) {
        await page.goto(each);
        await inState(page, 'full');
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, 'nothing is wider than a phone');
      }
    },
  },
  {
    // Here, because all of them are about something by now.
    name: 'on every screen of one thing the heading has the focus, and keeps it when the data comes',
    async run({ page, origin, server }) {
      const [version] = (await server.call('GET', `/api/v1/models/${LINE}/versions`)).items;
      const [rollout] = (await server.call('GET', '/api/v1/rollouts')).items;
      for (const [path, api] of [
        [`/devices/${DEVICE}`, `**/api/v1/devices/${DEVICE}`],
        [`/datasets/${LINE}`, `**/api/v1/datasets/${LINE}`],
        [`/datasets/${LINE}/labeling`, `**/api/v1/datasets/${LINE}`],
        [`/drift/${DEVICE}/${encodeURIComponent(made.manifest)}`, `**/api/v1/drift/${DEVICE}/**`],
        [`/models/${LINE}`, `**/api/v1/models/${LINE}/versions?**`],
        [`/model-versions/${version.id}`, `**/api/v1/model-versions/${version.id}`],
        [`/rollouts/${rollout.id}`, `**/api/v1/rollouts/${rollout.id}`],
        [`/runs/${version.run}`, `**/api/v1/runs/${version.run}`],
      ]) {
        // Anew each time: nothing of it is known yet.
        await page.goto(`${origin}/sessions`);
        await page.getByRole('heading', { name: 'Sessions', exact: true }).waitFor();
        let come;
        const held = new Promise((resolve) => (come = resolve));
        await page.route(api, async (route) => {
          await held;
          await route.continue();
        });
        // As Back and Forward do: the page itself is not loaded again.
        await page.evaluate((to) => {
          history.pushState({ key: 'there' }, '', to);
          dispatchEvent(new PopStateEvent('popstate'));
        }, path);
        await inState(page, 'loading');
        await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
        come();
        await settled(page);
        assert.equal(await page.evaluate(() => document.activeElement?.tagName), 'H1', `${path} lost the focus`);
        await page.unroute(api);
      }
    },
  },
  {
    name: 'loading and error, in both themes',
    async run({ page, origin }) {
      for (const [address, api] of [
        ['/drift', '**/api/v1/drift?**'],
        ['/drift/nobody/nothing', '**/api/v1/drift/nobody/nothing/features*'],
      ]) {
        for (const name of THEMES) {
          await theme(page, name);
          await page.route(api, () => new Promise(() => undefined));
          await page.goto(`${origin}${address}`);
          await accessible(page, 'loading', name);
          await page.unroute(api);
          await page.route(api, (route) =>
            route.fulfill({
              status: 422,
              contentType: 'application/problem+json',
              body: JSON.stringify({ type: 'about:blank', title: 'Refused', status: 422, detail: 'there is no such package' }),
            }),
          );
          await page.goto(`${origin}${address}`);
          await accessible(page, 'error', name);
          await page.getByText('there is no such package').waitFor();
          await page.unroute(api);
        }
      }
    },
  },
];
