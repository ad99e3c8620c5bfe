// The overview of a fleet that lives: counts, attention, live rollouts; every state in both themes.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';

const THEMES = ['light', 'dark'];
const ADDRESS = '**/api/v1/overview';

/** What the server says of a fleet with trouble, more than a small fleet of a check has. */
const TROUBLED = {
  devices: { total: 1240, online: 1101, offline: 139, decommissioned: 0, updating: 12, alert: 7 },
  versions: Array.from({ length: 11 }, (_unused, index) => ({ line: index === 1 ? 'حركة <b>x</b>' : 'motions', semver: `1.${index}.0`, devices: 900 >> index })),
  attention: Array.from({ length: 9 }, (_unused, index) => ({
    kind: ['drift', 'failed-deployment', 'attack', 'expiring-token'][index % 4],
    id: `press-${index}`,
    // The device's name is not in the words: it is the screen that says it.
    title: '🦺 <img src=x onerror=alert(1)>',
    detail: 'motions: 87 % of the features drifted, nearest slice import',
    at: new Date(Date.now() - index * 600_000).toISOString(),
  })),
  attention_totals: [
    { kind: 'attack', total: 2 },
    { kind: 'failed-deployment', total: 2 },
    { kind: 'drift', total: 3 },
    { kind: 'expiring-token', total: 2 },
  ],
  versions_total: 11,
  rollouts_total: 1,
  rollouts: [
    {
      id: '01a2071e-da07-7099-807a-3be8ab9092b5',
      spec: { model_version: '01a2071b-0e63-71f4-9070-6160c286f9ef', phases: [{ kind: 'count', devices: 5 }, { kind: 'percent', percent: 25 }, { kind: 'percent', percent: 100 }] },
      line: 'motions', semver: '1.2.0', state: 'running', phase: 1, decision: 'phase 2: waiting for 12 of 305 device(s)',
      counts: { success: 290, soaking: 17, failure: 3 }, targeted: 310, waiting: 930,
      phases: [{ phase: 0, reach: 5, counts: { success: 5 } }, { phase: 1, reach: 310, counts: { success: 285, soaking: 17, failure: 3 } }, { phase: 2, reach: 1240, counts: {} }],
       created_at: new Date().toISOString(), updated_at: new Date().toISOString(),
    },
  ],
  last_24h: { bytes: 48_234_112, inferences: 8_123_400, failures: 212 },
  first_steps: { has_devices: true, has_datasets: true, has_labels: true, has_runs: true, has_models: true, has_rollouts: true },
};

export const checks = [
  {
    name: 'full, loading and error, in both themes',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.route(ADDRESS, (route) => route.fulfill({ json: TROUBLED }));
        await page.goto(`${origin}/`);
        await accessible(page, 'full', name);
        await small(page);
        await page.getByText('285/305').waitFor();
        await page.getByText('press-0 🦺 <img src=x onerror=alert(1)>').waitFor();
        await shot(page, `overview-${name}`);
        await page.unroute(ADDRESS);
        await page.route(ADDRESS, () => new Promise(() => undefined));
        await page.goto(`${origin}/`);
        await accessible(page, 'loading', name);
        await page.unroute(ADDRESS);
        await page.route(ADDRESS, (route) =>
          route.fulfill({ status: 403, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Not permitted', status: 403, detail: 'this needs read' }) }),
        );
        await page.goto(`${origin}/`);
        await accessible(page, 'error', name);
        await page.getByText('this needs read').waitFor();
        await page.unroute(ADDRESS);
      }
    },
  },
  {
    name: 'reads well on a phone, and what needs attention opens by keys',
    async run({ page, origin }) {
      await page.route(ADDRESS, (route) => route.fulfill({ json: TROUBLED }));
      await page.setViewportSize({ width: 390, height: 844 });
      await page.goto(`${origin}/`);
      await inState(page, 'full');
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, 'nothing is wider than a phone');
      await shot(page, 'overview-phone');
      await page.getByRole('button', { name: 'Show all 9' }).focus();
      await page.keyboard.press('Enter');
      await page.waitForURL(/attention=all/);
      assert.equal(await page.locator('.overview-attention').count(), 9);
      await page.locator('.overview-attention a').first().focus();
      await page.keyboard.press('Enter');
      await page.waitForURL(/\/devices\/press-0$/);
    },
  },
  {
    name: 'an attack is acknowledged where it is shown, by keys, and only the one that was seen',
    async run({ page, origin }) {
      const attack = TROUBLED.attention[2];
      await page.route(ADDRESS, (route) => route.fulfill({ json: TROUBLED }));
      await page.goto(`${origin}/`);
      await inState(page, 'full');
      const button = page.getByRole('button', { name: `Acknowledge… the attack on ${attack.id}` });
      await button.focus();
      await page.keyboard.press('Enter');
      const dialog = page.getByRole('dialog', { name: 'Acknowledge this attack?' });
      await dialog.getByText(`fleetctl devices acknowledge ${attack.id}`).waitFor();
      const refused = { title: 'Conflict', status: 409, detail: 'the last attack is of another time by now' };
      await page.route('**/alerts/acknowledge', (route) => route.fulfill({ status: 409, contentType: 'application/problem+json', body: JSON.stringify(refused) }));
      const confirm = dialog.getByRole('button', { name: 'Acknowledge', exact: true });
      await confirm.press('Enter');
      await dialog.getByText('the last attack is of another time by now').waitFor();
      await page.unroute('**/alerts/acknowledge');
      let sent;
      await page.route('**/alerts/acknowledge', (route) => {
        sent = { path: new URL(route.request().url()).pathname, body: route.request().postDataJSON() };
        return route.fulfill({ json: {} });
      });
      await confirm.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      assert.deepEqual(sent, { path: `/api/v1/devices/${attack.id}/alerts/acknowledge`, body: { attack_at: attack.at } });
      await page.getByText(`The attack on ${attack.id} is acknowledged`).waitFor();
    },
  },
  {
    name: 'counts lead to the devices they count, and follow the fleet',
    async run({ page, origin, server }) {
      const { total } = await server.call('GET', '/api/v1/device-counts');
      if (total === 0) await server.addAgent('overview-1');
      await page.goto(`${origin}/`);
      await inState(page, 'full');
      const before = (await server.call('GET', '/api/v1/overview')).devices.total;
      await server.addAgent(`overview-${Date.now()}`);
      await page.getByText(`${before + 1} devices in the fleet`).waitFor();
      await page.getByRole('link', { name: /Online/ }).click();
      await page.waitForURL(/filter=status%3Aonline/);
    },
  },
];
