// What needs attention, from a real device that drifts: the overview names it, and from its drift the way to labels is an action
// even while nothing has been kept.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inState } from '../checks.mjs';
import { signedModel } from '../model.mjs';
import { until } from '../server.mjs';

const LINE = 'bench-attention';
const DEVICE = 'attention-1';

/** Observations far from what the model knows, over the agent's own inference protocol. */
async function strangeData(server) {
  const address = (await readFile(join(server.folder, DEVICE, 'rest.addr'), 'utf8')).trim();
  const model = `http://${address}/v2/models/${LINE}`;
  const { inputs } = await (await fetch(model)).json();
  const data = Array.from({ length: 64 * 4 }, (_unused, index) => 40 + Math.sin(index) * 3);
  const answer = await fetch(`${model}/infer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ inputs: [{ name: inputs[0].name, datatype: 'FP32', shape: [64, 4], data }] }),
  });
  assert.ok(answer.ok, await answer.text());
}

async function rollOut(server, version, harvest) {
  const order = { model_version: version, target: `device.id == "${DEVICE}"`, soak_s: 0, ...(harvest ? { harvest: { on_drift: true, max_samples: 20 } } : {}) };
  const { id } = await server.call('POST', '/api/v1/rollouts', order);
  await server.call('POST', `/api/v1/rollouts/${id}/start`);
  await until('the rollout', async () => (await server.call('GET', `/api/v1/rollouts/${id}`)).state === 'completed');
}

export const checks = [
  {
    name: 'a device that drifts is named on the overview, and its list knows how many there are',
    async run({ page, origin, server }) {
      const version = await signedModel(server, LINE);
      await server.addAgent(DEVICE);
      await rollOut(server, version, false);
      await page.goto(`${origin}/`);
      await inState(page, 'full');
      await until('the judgement', async () => {
        await strangeData(server);
        return (await server.call('GET', '/api/v1/drift')).items.some((judged) => judged.drifted);
      });
      // Without a reload.
      const row = page.getByRole('link', { name: new RegExp(`Drift ${DEVICE} drifted: \\d+ % of its features`) });
      await row.waitFor();
      const { attention_totals: totals } = await server.call('GET', '/api/v1/overview');
      assert.deepEqual(totals.find((of) => of.kind === 'drift'), { kind: 'drift', total: 1 });
      // Packages are named by their digests, in one question, however many versions their lines have.
      const names = page.waitForRequest((request) => request.url().includes('/api/v1/model-versions?'));
      await row.click();
      await page.waitForURL(new RegExp(`/devices/${DEVICE}$`));
      const { manifest } = await server.call('GET', `/api/v1/model-versions/${version}`);
      assert.ok(new URL((await names).url()).searchParams.get('manifest').split(',').includes(manifest));
      await page.getByRole('region', { name: 'Models that it has run' }).getByRole('link', { name: `${LINE} 1.0.0` }).waitFor();
      const { items } = await server.call('GET', `/api/v1/models/${LINE}/versions`);
      assert.equal(items[0].devices, 1);
      await page.goto(`${origin}/models`);
      await page.getByRole('row', { name: new RegExp(`${LINE}.*1\\.0\\.0 on 1`) }).waitFor();
    },
  },
  {
    name: 'while nothing has been kept, labeling begins with a rollout that keeps it; then with what this device kept',
    async run({ page, origin, server }) {
      const [version] = (await server.call('GET', `/api/v1/models/${LINE}/versions`)).items;
      const drift = `${origin}/drift/${DEVICE}/${encodeURIComponent(version.manifest)}`;
      await page.goto(drift);
      await page.getByRole('link', { name: 'Plan a rollout that keeps inputs' }).click();
      await page.waitForURL(/\/rollouts\/new\?/);
      await inState(page, 'full');
      assert.equal(await page.getByLabel('Target').inputValue(), `device.id == "${DEVICE}"`);
      assert.equal(await page.getByLabel(/Keep inputs/).isChecked(), true);
      await rollOut(server, version.id, true);
      await until('the harvest', async () => {
        await strangeData(server);
        return (await server.call('GET', `/api/v1/datasets/${LINE}`)).slices['harvest/1.0.0'] > 0;
      });
      const gathering = await server.call('GET', `/api/v1/datasets?harvest_line=${LINE}`);
      assert.deepEqual(gathering.items.map((dataset) => dataset.name), [LINE]);
      assert.match(await server.fleetctl('datasets', 'list', '--harvest-line', LINE), new RegExp(LINE));
      assert.doesNotMatch(await server.fleetctl('datasets', 'list', '--harvest-line', 'another-line'), new RegExp(LINE));
      await page.goto(drift);
      await page.getByRole('link', { name: `Label what ${DEVICE} kept` }).click();
      await page.waitForURL(new RegExp(`device=${DEVICE}`));
      await inState(page, 'full');
      await page.getByText(`fleetctl labels queue ${LINE} --slice harvest/1.0.0 --device ${DEVICE}`).waitFor();
      await page.goto(`${page.url().replace(DEVICE, 'somebody-else')}`);
      await page.getByText('Everything here is labelled by hand.').waitFor();
    },
  },
];
