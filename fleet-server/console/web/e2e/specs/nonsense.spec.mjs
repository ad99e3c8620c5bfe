// A device that reports nonsense: what its model makes of absurd samples, and answers of the server with absurd numbers and
// times where a device's own stand. Every screen shows them without breaking.
import assert from 'node:assert/strict';
import { fits, shot, theme } from '../checks.mjs';
import { infer, signedModel } from '../model.mjs';
import { until } from '../server.mjs';
import { everywhere, nonsense, sensible, settled } from '../texts.mjs';

const LINE = 'absurd';
const DEVICE = 'absurd-1';
const made = {};

/** Fields that a device counts, measures or dates. */
const COUNTS = new Set([
  'after_count', 'after_epoch', 'alarms', 'audit_entries', 'boot_count', 'bundles', 'bytes', 'bytes_received', 'bytes_total', 'count', 'disk_free_bytes', 'epoch', 'failures', 'inferences',
  'judgements', 'lost', 'p50_us', 'p95_us', 'ram_bytes', 'release_counter', 'report_counter', 'seen_count',
]);
const MEASURES = new Set(['corrected', 'drift', 'edges', 'psi', 'seen', 'share']);
const TIMES = new Set(['at', 'hour', 'last_seen', 'updated_at']);

/** What stands in their place. A number that is none comes as `null`, because JSON has no other word for it. */
const NONSENSE = {
  huge: { count: 18_446_744_073_709_551_615n, measure: Number.MAX_VALUE, time: '9999-12-31T23:59:59.999Z' },
  negative: { count: -9_223_372_036_854_775_808n, measure: -Number.MAX_VALUE, time: '1970-01-01T00:00:00Z' },
  tiny: { count: 0n, measure: Number.MIN_VALUE, time: '0000-01-01T00:00:00Z' },
  none: { count: 1n, measure: null, time: 'the day before' },
};

function absurd(value, kind, name = '') {
  if (Array.isArray(value)) return value.map((each) => absurd(each, kind, name));
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, absurd(each, kind, key)]));
  if (typeof value === 'number' && COUNTS.has(name)) return Number(kind.count);
  if (typeof value === 'number' && MEASURES.has(name)) return kind.measure;
  if (typeof value === 'string' && TIMES.has(name)) return kind.time;
  return value;
}

async function ready(server) {
  if (made.version !== undefined) return made;
  made.version = await signedModel(server, LINE);
  made.manifest = (await server.call('GET', `/api/v1/model-versions/${made.version}`)).manifest;
  await server.addAgent(DEVICE);
  const { id } = await server.call('POST', '/api/v1/rollouts', { model_version: made.version, soak_s: 0 });
  await server.call('POST', `/api/v1/rollouts/${id}/start`);
  await until('the rollout', async () => (await server.call('GET', `/api/v1/rollouts/${id}`)).state === 'completed', 120);
  made.rollout = id;
  return made;
}

const screens = ({ version, manifest, rollout }) => [
  '/', '/devices', '/devices?sort=-drift', `/devices/${DEVICE}`, `/devices/${DEVICE}?span=7d`, '/drift', `/drift/${DEVICE}/${encodeURIComponent(manifest)}`,
  '/rollouts', `/rollouts/${rollout}`, '/models', `/models/${LINE}`, `/model-versions/${version}`, '/provisioning', '/audit', `/audit?filter=device:${DEVICE}`,
];

async function walk(page, origin, paths) {
  await everywhere(paths, async (path) => {
    await page.goto(origin + path);
    await settled(page);
    // Charts are drawn when they come near the screen.
    for (const heading of await page.locator('main h2').all()) await heading.scrollIntoViewIfNeeded();
    await settled(page);
    await sensible(page);
    await fits(page);
  });
}

export const checks = [
  {
    name: 'these checks know nonsense, and no digest is any',
    async run() {
      for (const text of ['1.2e+2 ms', 'p50 5e+2 ms', '-1.798e+308', '1e-7', 'from 1e+21 to 2e+21.', 'aria-label="Latency: last 1.2e+2 ms"', 'NaN %', 'title="undefined"']) assert.ok(nonsense(text), text);
      for (const text of [
        '120 ms', '1.2×10⁻⁷', 'sha256:0e12345678901e5', '12345678e901…', '01a2071e-0e63-71f4-9070-6160c286f9e5', '…9070e1234567', 'edge-1e-2', '0.1.0-3e5', 'd="M0 1e+21V3"', 'style="inline-size: 1e-7%"',
      ]) assert.ok(!nonsense(text), text);
    },
  },
  {
    name: 'samples that no sensor gives, sent to a real device',
    async run({ page, origin, server }) {
      await ready(server);
      const ask = (value) => infer(server, DEVICE, Array.from({ length: 64 }, () => [value, -value, value, 0]), [4]);
      for (const value of [1e308, 3.4e38, 1e-45, 5e-324, 4e18]) await ask(value).catch((error) => assert.doesNotMatch(error.message, /fetch failed/, `the device survives ${value}`));
      await assert.rejects(ask('a word'), /does not fit FP32/);
      await until('the judgement', async () => {
        await ask(3e38);
        return (await server.call('GET', '/api/v1/drift')).items.some((judged) => judged.drifted);
      });
      await theme(page, 'light');
      await walk(page, origin, screens(made));
      await shot(page, 'absurd-samples');
    },
  },
  ...Object.entries(NONSENSE).map(([name, kind]) => ({
    name: `numbers and times that cannot be: ${name}`,
    async run({ page, origin, server }) {
      await ready(server);
      let changed = 0;
      // Live patches would put the truth on top of what this check shows.
      await page.route('**/api/v1/events', (route) => route.abort());
      await page.route(/\/api\/v1\/(overview|devices|device-counts|drift|rollouts|models|model-versions|audit)/, async (route) => {
        if (route.request().method() !== 'GET') return route.fallback();
        const response = await route.fetch();
        const before = await response.json().catch(() => undefined);
        if (before === undefined) return route.fulfill({ response });
        const json = absurd(before, kind);
        if (JSON.stringify(json) !== JSON.stringify(before)) changed += 1;
        return route.fulfill({ response, json });
      });
      for (const width of [1440, 390]) {
        await page.setViewportSize({ width, height: 900 });
        await walk(page, origin, screens(made));
      }
      assert.ok(changed > 10, `${changed} answers were changed`);
      await page.goto(`${origin}/devices/${DEVICE}`);
      await settled(page);
      await shot(page, `absurd-${name}`);
    },
  })),
];
