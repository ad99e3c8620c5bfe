// One device: what it should run and runs, its tags, its past, its end.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';
import { sensible, settled } from '../texts.mjs';

const THEMES = ['light', 'dark'];
const NAME = 'single-1';
/** Longer than the console waits between two answers to the same question. */
const PACE_MS = 2500;
/** Written out, with its zone and its age: `2026-11-23 04:41:32 UTC+01:00 (3 min ago)`. */
const EXACT = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC([+−]\d\d:\d\d)? \((now|in .+|.+ ago)\)$/;

async function ready(server) {
  const known = await server.call('GET', `/api/v1/devices/${NAME}`).catch(() => undefined);
  if (known === undefined) await server.addAgent(NAME);
}

export const checks = [
  {
    name: 'full, loading and error, in both themes',
    async run({ page, origin, server }) {
      await ready(server);
      const detail = `**/api/v1/devices/${NAME}`;
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/devices/${NAME}`);
        await page.getByText('Enrolled', { exact: true }).first().waitFor();
        await page.getByText('Nothing has been judged yet', { exact: false }).waitFor();
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `device-${name}`);
        await page.route(detail, () => new Promise(() => undefined));
        await page.goto(`${origin}/devices/${NAME}`);
        await accessible(page, 'loading', name);
        await page.unroute(detail);
        await page.goto(`${origin}/devices/nobody`);
        await accessible(page, 'error', name);
      }
    },
  },
  {
    name: 'trouble, a difference and telemetry are said in words too',
    async run({ page, origin, server }) {
      await ready(server);
      const device = await server.call('GET', `/api/v1/devices/${NAME}`);
      const manifest = (digit) => `sha256:${digit.repeat(64)}`;
      const hours = Array.from({ length: 20 }, (_unused, index) => ({
        hour: new Date((Math.floor(Date.now() / 3_600_000) - 20 + index) * 3_600_000).toISOString(),
        line: 'motions', manifest: manifest(index < 9 ? 'a' : 'b'), inferences: 900 + 40 * index, failures: index === 12 ? 3 : 0, p50_us: 900 + 20 * index, p95_us: 2400 + 60 * index,
      }));
      await page.route(`**/api/v1/devices/${NAME}`, (route) =>
        route.fulfill({
          json: {
            ...device,
            alerts: ['drift', 'failed-deployment', 'attack'], drifted: true, drift: 0.875, updating: true,
            desired: [{ slot: 'main', line: 'motions', semver: '1.1.0', manifest: manifest('b'), deployment: 'd' }],
            models: [{ slot: 'main', line: 'motions', semver: '1.0.0', release_counter: 1, manifest: manifest('a'), committed: true }],
            deployments: [{ id: 'd', rollout: 'r', state: 'failure', reason: 'golden output 3 differs', updated_at: new Date().toISOString() }],
            telemetry: [{ line: 'motions', manifest: manifest('a'), inferences: 25_400, failures: 3, p50_us: 1024, p95_us: 120_000, bundles: 9 }],
            last_attack: { attack: 'rollback', detail: '<b>counter</b> 1 is below 2', at: new Date().toISOString() },
            audit_gaps: [{ at: new Date().toISOString(), epoch: 3, after_epoch: 2, after_count: 40, after_hash: manifest('c'), lost: 17 }],
          },
        }),
      );
      // Live patches would put the truth on top of what this check shows.
      await page.route('**/api/v1/events', (route) => route.abort());
      await page.route(`**/api/v1/devices/${NAME}/telemetry**`, (route) => route.fulfill({ json: { device: NAME, from: hours[0].hour, to: new Date().toISOString(), hours } }));
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/devices/${NAME}`);
        await page.getByText('golden output 3 differs').waitFor();
        await page.getByText('<b>counter</b> 1 is below 2', { exact: false }).waitFor();
        await page.getByText('On the way').waitFor();
        await page.locator('.u-wrap canvas').first().waitFor();
        await page.getByRole('region', { name: 'Figures' }).getByText('120 ms', { exact: true }).waitFor();
        await sensible(page);
        await accessible(page, 'full', name);
        await shot(page, `device-trouble-${name}`);
      }
      await page.getByRole('list', { name: 'Needs attention' }).getByRole('button', { name: 'Acknowledge…' }).click();
      await page.getByRole('dialog').getByText(`fleetctl devices acknowledge ${NAME}`).waitFor();
      await page.getByRole('dialog').getByText('<b>counter</b> 1 is below 2').waitFor();
      await page.keyboard.press('Escape');
      await page.setViewportSize({ width: 390, height: 844 });
      await page.goto(`${origin}/devices/${NAME}`);
      await inState(page, 'full');
      await shot(page, 'device-phone');
      // A chart mounts when it comes near the screen.
      await page.getByRole('heading', { name: 'Models' }).scrollIntoViewIfNeeded();
      await page.locator('.u-wrap canvas').first().waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, 'nothing is wider than a phone');
      await page.getByRole('button', { name: '7 d' }).click();
      await page.waitForURL(/span=7d/);
    },
  },
  {
    name: 'tags by keys alone: at once on the screen, back when refused, whatever stands in them',
    async run({ page, origin, server }) {
      await ready(server);
      await page.goto(`${origin}/devices/${NAME}`);
      await inState(page, 'full');
      await page.keyboard.press('t');
      const dialog = page.getByRole('dialog', { name: 'Tags' });
      await dialog.getByRole('textbox').waitFor();
      await page.keyboard.press('Control+a');
      await page.keyboard.type('site');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await dialog.getByText('write site=value', { exact: false }).waitFor();
      await page.keyboard.press('Control+a');
      await page.keyboard.type('site=<b>Oslo</b> مصنع 🏭');
      await dialog.getByText(/fleetctl devices tag single-1 'site=<b>Oslo/).waitFor();
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      const shown = page.locator('.device-tags .tag').filter({ hasText: '<b>Oslo</b> مصنع 🏭' });
      await shown.waitFor();
      assert.deepEqual((await server.call('GET', `/api/v1/devices/${NAME}`)).tags, { site: '<b>Oslo</b> مصنع 🏭' });
      // Refused: the dialog keeps what was typed, the screen shows what is true.
      await page.route(`**/api/v1/devices/${NAME}`, (route) =>
        route.request().method() === 'PATCH'
          ? route.fulfill({ status: 409, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Conflict', status: 409, detail: 'somebody was faster' }) })
          : route.fallback(),
      );
      await page.keyboard.press('t');
      await dialog.getByRole('textbox').fill('site=elsewhere');
      await dialog.getByRole('button', { name: 'Save the tags' }).click();
      await dialog.getByText('somebody was faster').waitFor();
      assert.equal(await dialog.getByRole('textbox').inputValue(), 'site=elsewhere');
      await dialog.getByRole('button', { name: 'Cancel' }).click();
      await shown.waitFor();
    },
  },
  {
    name: 'exact times are text: no mouse is needed for them',
    async run({ page, origin, server }) {
      await ready(server);
      await page.goto(`${origin}/devices/${NAME}`);
      await inState(page, 'full');
      for (const name of ['Last seen', 'Enrolled']) {
        const said = await page.locator('.facts > div').filter({ has: page.getByText(name, { exact: true }) }).locator('dd').innerText();
        assert.match(said, EXACT, name);
      }
      await page.getByRole('list', { name: 'Timeline' }).getByText(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC/).first().waitFor();
    },
  },
  {
    name: 'what cannot be loaded again says so beside what is known; trying again is busy until the answer is here',
    async run({ page, origin, server }) {
      await ready(server);
      const detail = `**/api/v1/devices/${NAME}`;
      await page.goto(`${origin}/devices/${NAME}`);
      await inState(page, 'full');
      await page.route(detail, (route) => route.fulfill({ status: 403, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Not permitted', status: 403, detail: 'not any more' }) }));
      await server.call('PATCH', `/api/v1/devices/${NAME}`, { change: { set: { again: 'yes' } } });
      const note = page.getByRole('alert').filter({ hasText: 'This may be old' });
      await note.waitFor();
      await page.getByRole('region', { name: 'Figures' }).waitFor();
      await page.unroute(detail);
      let answer;
      const waiting = new Promise((resolve) => (answer = resolve));
      await page.route(detail, async (route) => {
        await waiting;
        return route.continue();
      });
      const retry = note.getByRole('button', { name: 'Try again' });
      await retry.click();
      await retry.and(page.locator('[aria-busy=true][aria-disabled=true]')).waitFor();
      answer();
      await note.waitFor({ state: 'detached' });
    },
  },
  {
    name: 'a command line that does not fit is scrolled by keys; one that fits is no stop on the way',
    async run({ page, origin, server }) {
      await ready(server);
      await page.goto(`${origin}/devices/${NAME}`);
      await inState(page, 'full');
      await page.keyboard.press('t');
      const dialog = page.getByRole('dialog', { name: 'Tags' });
      await dialog.getByRole('textbox').fill(Array.from({ length: 40 }, (_unused, at) => `tag-${at}=a value with words ${at}`).join('\n'));
      await page.waitForFunction(() => {
        const line = document.querySelector('dialog .cli code');
        return line.scrollHeight > line.clientHeight + 1 && line.tabIndex === 0;
      });
      // From the button that sends, past the one that cancels.
      await dialog.getByRole('button', { name: 'Cancel' }).focus();
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement?.matches('.cli code')), true);
      await page.keyboard.press('End');
      await page.waitForFunction(() => document.querySelector('dialog .cli code').scrollTop > 0);
      await dialog.getByRole('textbox').fill('site=oslo');
      await page.waitForFunction(() => document.querySelector('dialog .cli code').tabIndex === -1);
      await dialog.getByRole('button', { name: 'Cancel' }).focus();
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('aria-label')), 'Copy the command');
      await dialog.getByRole('button', { name: 'Cancel' }).click();
      await dialog.waitFor({ state: 'detached' });
    },
  },
  {
    name: 'what happens to another device asks nothing on the page of this one',
    async run({ page, origin, server }) {
      await ready(server);
      // One that says nothing more: all that happens is about the other.
      const quiet = await server.addAgent('single-quiet');
      await page.goto(`${origin}/devices/single-quiet`);
      await inState(page, 'full');
      await page.locator('.live .status.ok').waitFor();
      quiet.child.kill('SIGKILL');
      await page.locator('.page-note').getByText('Offline').waitFor();
      await settled(page);
      await page.evaluate(() => {
        globalThis.told = [];
        new BroadcastChannel('flotilla-live').onmessage = ({ data }) => globalThis.told.push(...(data.changes ?? []).map(({ resource, id }) => `${resource} ${id}`));
      });
      // What that was about has been asked again by now.
      await new Promise((resolve) => setTimeout(resolve, PACE_MS));
      const asked = [];
      page.on('request', (request) => {
        const { pathname } = new URL(request.url());
        if (pathname.startsWith('/api/')) asked.push(pathname);
      });
      for (const tag of ['1', '2', '3']) {
        await page.evaluate(() => (globalThis.told = []));
        await server.call('PATCH', `/api/v1/devices/${NAME}`, { tags: { noise: tag } });
        await page.waitForFunction((name) => globalThis.told.includes(`device ${name}`), NAME);
        await new Promise((resolve) => setTimeout(resolve, PACE_MS));
      }
      assert.deepEqual(asked, []);
      // Its own is seen at once.
      await server.call('PATCH', '/api/v1/devices/single-quiet', { tags: { noise: 'mine' } });
      await page.locator('.device-tags .tag').filter({ hasText: 'mine' }).waitFor();
      assert.ok(asked.includes('/api/v1/devices/single-quiet'));
    },
  },
  {
    name: 'decommissioned only after its name is typed; then nothing can be done with it',
    async run({ page, origin, server }) {
      await server.addAgent('single-end');
      await page.goto(`${origin}/devices/single-end`);
      await page.getByRole('button', { name: 'Decommission…' }).click();
      const dialog = page.getByRole('dialog', { name: 'Decommission this device?' });
      const confirm = dialog.getByRole('button', { name: 'Decommission', exact: true });
      assert.equal(await confirm.isDisabled(), true);
      await dialog.getByText('fleetctl devices decommission single-end --yes').waitFor();
      await dialog.getByRole('textbox').fill('single-end');
      await page.keyboard.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      await page.locator('.page-note').getByText('Decommissioned').waitFor();
      assert.equal(await page.getByRole('button', { name: 'Edit tags' }).count(), 0);
      assert.equal((await server.call('GET', '/api/v1/devices/single-end')).status, 'decommissioned');
    },
  },
];
