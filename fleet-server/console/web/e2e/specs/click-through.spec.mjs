// The whole loop on one server with a real agent and real recordings: drift → labels → dataset version → run → package → offline
// signature → rollout → drift, which is calm then. Once by mouse, and once more, after the sensor was turned again, by keys alone.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { inState, small } from '../checks.mjs';
import { command, copied, keys, mouse } from '../hands.mjs';
import { infer, releaseKey } from '../model.mjs';
import { field, firstModel, LINE, SHAPE, truthOf } from '../motions.mjs';
import { until } from '../server.mjs';

export const long = true;

const DEVICE = 'wrist-1';
const DRIFT = { name: 'Drift', key: 'f' };
/** Of the server: which version the device runs, and how often its sensor has been turned. */
const made = { semver: undefined, turns: 0 };

async function ready(server) {
  if (made.semver !== undefined) return;
  const version = await firstModel(server);
  await server.addAgent(DEVICE);
  const { id } = await server.call('POST', '/api/v1/rollouts', { model_version: version, soak_s: 0, harvest: { on_drift: true, max_samples: 100 } });
  await server.call('POST', `/api/v1/rollouts/${id}/start`);
  await until('the first rollout', async () => (await server.call('GET', `/api/v1/rollouts/${id}`)).state === 'completed', 120);
  made.semver = '1.0.0';
}

/** The sensor gives all that the device can see, so turned, until `enough`. */
async function sense(server, what, enough) {
  const samples = field(made.turns);
  await until(
    what,
    async () => {
      await infer(server, DEVICE, samples, SHAPE);
      return enough();
    },
    180,
  );
}

async function judgement(server) {
  const { items } = await server.call('GET', `/api/v1/drift?device=${DEVICE}`);
  return items.find((judged) => judged.semver === made.semver);
}

/** The sensor is turned: the device notices by itself, and what it sees comes back. */
async function drifts(server) {
  made.turns += 1;
  const slice = `harvest/${made.semver}`;
  await sense(server, 'the drift alarm', async () => (await judgement(server))?.drifted === true);
  await sense(server, 'the harvest', async () => (await server.call('GET', `/api/v1/datasets/${LINE}`)).slices[slice] === field(made.turns).length);
  return slice;
}

async function labels(page, hands, server, slice) {
  const { items } = await server.call('GET', `/api/v1/datasets/${LINE}/samples?slice=${encodeURIComponent(slice)}&values=true&limit=1000`);
  const truth = truthOf(items);
  let before;
  for (let count = 0; count < items.length; count += 1) {
    const shown = await page.waitForFunction((last) => {
      const now = document.querySelector('[data-sample]')?.getAttribute('data-sample');
      return now !== last && now;
    }, before);
    before = await shown.jsonValue();
    await hands.label(truth.get(before));
  }
  await page.getByText('Everything here is labelled by hand.').waitFor();
  await page.getByText('all of it is with the server').waitFor();
}

async function turn(page, server, hands, origin) {
  await ready(server);
  const slice = await drifts(server);
  const [major, minor] = made.semver.split('.').map(Number);
  const next = `${major}.${minor + 1}.0`;

  await page.goto(`${origin}/`);
  await inState(page, 'full');
  await hands.go(DRIFT);
  await page.getByRole('heading', { name: 'Drift', exact: true }).waitFor();
  await command(page, /fleetctl drift list/);
  await hands.open(page.getByRole('grid'), new RegExp(`${DEVICE}.*${made.semver.replaceAll('.', '\\.')}`));
  await page.waitForURL(new RegExp(`/drift/${DEVICE}/`));
  await page.getByText('Send it to labeling').waitFor();
  await copied(page, hands, page.getByRole('region', { name: 'Next step' }), `fleetctl labels queue ${LINE} --slice ${slice} --device ${DEVICE}`);
  await hands.press(page.getByRole('link', { name: `Label what ${DEVICE} kept` }));

  await page.waitForURL(/\/labeling\?.*slice=/);
  await command(page, /fleetctl labels queue/);
  await labels(page, hands, server, slice);
  await command(page, /fleetctl labels annotate/);
  await command(page.getByRole('region', { name: 'Next step' }), /fleetctl versions create/);
  await hands.press(page.getByRole('link', { name: /^Freeze a version/ }));

  const freeze = page.getByRole('dialog', { name: `Freeze a version of ${LINE}` });
  await hands.fill(freeze.getByLabel('Note'), `what ${made.semver} saw`);
  await command(freeze, /fleetctl versions create motions --note/);
  await hands.press(freeze.getByRole('button', { name: 'Freeze', exact: true }));
  await freeze.waitFor({ state: 'detached' });
  const version = page.getByRole('region', { name: /^Version \d+$/ });
  await version.getByText(`what ${made.semver} saw`).waitFor();
  await command(page.getByRole('region', { name: 'Next step' }), /fleetctl runs create --dataset-version/);
  await hands.press(page.getByRole('link', { name: /^New run/ }));

  await page.waitForURL(/\/runs\/new\?/);
  await hands.fill(page.getByLabel('Experiment'), LINE);
  await hands.fill(page.getByLabel('Epochs'), '150');
  await command(page, /fleetctl runs create .*--epochs 150/);
  await hands.press(page.getByRole('button', { name: 'Start the run' }));
  await page.getByRole('heading', { name: `${LINE}, seed 1` }).waitFor();
  await page.locator('.page-note').getByText('Finished').waitFor({ timeout: 180_000 });
  await command(page, /fleetctl runs show/);
  await hands.press(page.getByRole('link', { name: 'Make a package' }));

  await page.getByRole('heading', { name: 'New package' }).waitFor();
  // The line that harvests into this dataset, and the version after its last.
  await command(page, new RegExp(`fleetctl models package ${LINE} --run \\S+ --semver ${next.replaceAll('.', '\\.')}`));
  await hands.press(page.getByRole('button', { name: 'Make the package' }));
  await page.getByRole('heading', { name: `${LINE} ${next}` }).waitFor({ timeout: 120_000 });
  await signsOffline(page, hands, server);
  await hands.press(page.getByRole('link', { name: /^Promote/ }));

  await page.getByRole('heading', { name: 'New rollout' }).waitFor();
  await hands.fill(page.getByLabel('Target'), `device.id == "${DEVICE}"`);
  await hands.fill(page.getByLabel('Soak'), '0');
  await page.getByText('1 device matches now').waitFor();
  await command(page, /fleetctl rollouts create --model-version .*--soak-s 0/);
  await hands.press(page.getByRole('button', { name: 'Make the draft' }));
  await page.waitForURL(/\/rollouts\/[0-9a-f-]{36}$/);
  await hands.press(page.getByRole('button', { name: 'Start…' }));
  const start = page.getByRole('dialog', { name: `Start ${LINE} ${next}?` });
  await command(start, /fleetctl rollouts start/);
  await hands.press(start.getByRole('button', { name: 'Start', exact: true }));
  await start.waitFor({ state: 'detached' });
  await page.locator('.page-note').getByText('Completed').waitFor({ timeout: 120_000 });
  made.semver = next;
  await command(page.getByRole('region', { name: 'Next step' }), /fleetctl drift list/);
  await hands.press(page.getByRole('link', { name: /^Look at drift/ }));

  // Back where it began: the same sensor, so turned, is what the new version knows.
  await page.waitForURL(/\/drift\?line=motions/);
  await sense(server, 'a judgement of the new version', async () => (await judgement(server)) !== undefined);
  await page.getByRole('row', { name: new RegExp(`${DEVICE}.*No drift.*${next.replaceAll('.', '\\.')}`) }).waitFor();
  assert.equal((await judgement(server)).drifted, false);
  await small(page);
}

/** The file of the browser, the commands that the page shows, and the answer's file given back. */
async function signsOffline(page, hands, server) {
  await page.getByRole('heading', { name: 'Sign it offline' }).waitFor();
  const lines = {};
  for (const name of ['Export', 'Sign', 'Import']) {
    const group = page.getByRole('group', { name, exact: true });
    lines[name] = (await group.locator('code').textContent()).trim();
    assert.equal(await group.getByRole('button', { name: 'Copy the command' }).count(), 1);
  }
  assert.match(lines.Export, /^fleetctl sign export \S+ -o \S+\.json$/);
  assert.match(lines.Import, /^fleetctl sign import \S+ \S+\.signed\.json$/);
  const download = page.waitForEvent('download');
  await hands.press(page.getByRole('button', { name: 'Download it here' }));
  const request = await download;
  await request.saveAs(join(server.folder, request.suggestedFilename()));
  // The command that is shown, as it is: only the files lie in the check's folder, and nobody is there to be asked.
  const words = lines.Sign.split(' ').slice(1);
  const places = { 'release.key': releaseKey(server) };
  await server.fleetctl(...words.map((word) => places[word] ?? (word.endsWith('.json') ? join(server.folder, word) : word)), '--yes');
  const chooser = page.waitForEvent('filechooser');
  await hands.press(page.getByRole('button', { name: 'Choose the signed file…' }));
  await (await chooser).setFiles(join(server.folder, words.find((word) => word.endsWith('.signed.json'))));
  await page.locator('.page-note').getByText('Signed').waitFor();
}

export const checks = [
  {
    name: 'drift to drift by mouse, every action with its command',
    async run({ page, origin, server }) {
      await turn(page, server, mouse(page), origin);
    },
  },
  {
    name: 'drift to drift by keys alone',
    async run({ page, origin, server }) {
      await page.addInitScript(() => addEventListener('pointerdown', () => sessionStorage.setItem('pointers', 'used'), { capture: true }));
      await turn(page, server, keys(page), origin);
      assert.equal(await page.evaluate(() => sessionStorage.getItem('pointers')), null, 'no pointer was used');
    },
  },
];
