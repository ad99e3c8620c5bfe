// Writes every screen of the console as PNG, in both themes, and some at a phone's width: `make console-shots`. What they show is
// real: `fleetctl demo` goes once around the loop, then more agents join, a rollout reaches them and meets one that is gone, and
// some see data that their model does not know. SHOTS names the folder (`shots`), SHOTS_ONLY a part of the names; E2E_CONSOLE a
// build of the console that is looked at in place of the server's own.
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openBrowser, serveBuild } from './browser.mjs';
import { theme } from './checks.mjs';
import { caller, ROOT, start, startAgent, stop, until } from './processes.mjs';

const DEMO = join(ROOT, 'fleet-server/cli/demo');
const OUT = process.env.SHOTS ?? 'shots';
const ONLY = process.env.SHOTS_ONLY ?? '';
const SITES = ['oslo', 'lyon', 'graz'];
/** Minutes that the demo may take on a slow machine. */
const DEMO_S = 15 * 60;

const folder = await mkdtemp(join(tmpdir(), 'flotilla-shots-'));
const running = [];
/** Pictures that do not show what they should. */
const poor = [];

/** The demo, at its end: everything is left running. */
async function demo() {
  const going = start('fleetctl', ['demo', '--specs', DEMO, '--dir', join(folder, 'demo')], { cwd: folder });
  running.push(going);
  return until(
    'the demo’s end',
    async () => {
      const found = /^ *API +(http\S+)\/api\/v1$/m.exec(going.said());
      if (found !== null) return { origin: found[1], token: (await readFile(join(folder, 'demo/fleet/admin.token'), 'utf8')).trim() };
      assert.equal(going.child.exitCode, null, `the demo ended:\n${going.said()}`);
      return undefined;
    },
    DEMO_S,
  );
}

async function addAgent(call, name, options) {
  const agent = await startAgent(call, folder, name, options);
  running.push(agent);
  return agent;
}

/** Windows of the demo's recordings, channel by channel in the order of the dataset. */
async function recordings(channels) {
  const [head, ...lines] = (await readFile(join(DEMO, 'data/basic_motions.csv'), 'utf8')).trim().split('\n');
  const places = channels.map((channel) => head.split(',').indexOf(channel));
  return lines.map((line) => places.map((place) => Number(line.split(',')[place])));
}

/** Asks the device's model about recorded windows; `change` is what happened to the sensor. */
async function infer(name, line, rows, turn, change) {
  const address = (await readFile(join(folder, name, 'rest.addr'), 'utf8')).trim();
  const model = `http://${address}/v2/models/${line}`;
  const { inputs } = await (await fetch(model)).json();
  const [, steps] = inputs[0].shape;
  const windows = 16;
  const first = (turn * windows * steps) % (rows.length - windows * steps);
  const data = rows.slice(first, first + windows * steps).flatMap((row) => row.map((_value, channel) => change(row, channel)));
  const answer = await fetch(`${model}/infer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ inputs: [{ name: inputs[0].name, datatype: 'FP32', shape: [windows, ...inputs[0].shape.slice(1)], data }] }),
  });
  if (!answer.ok) throw new Error(await answer.text());
}

async function furnish(call) {
  const line = 'motions';
  const dataset = await call('GET', `/api/v1/datasets/${line}`);
  const names = Array.from({ length: 9 }, (_unused, at) => `${['press', 'lathe', 'saw'][at % 3]}-${String(at + 1).padStart(2, '0')}`);
  const agents = new Map();
  for (const [at, name] of names.entries()) agents.set(name, await addAgent(call, name, { hardware: ['pi-5', 'nuc-13'][at % 2], tags: { site: SITES[at % 3], hall: `h${at % 4}` } }));
  await until('the agents', async () => (await call('GET', '/api/v1/devices?filter=site:*%20status:online')).total === names.length);
  const versions = (await call('GET', `/api/v1/models/${line}/versions`)).items;
  const newest = versions.find((version) => version.signature === 'signed');
  // One that is gone: nothing is heard of it, and its deployment fails.
  await stop(agents.get('saw-09'), 'SIGKILL');
  const rollout = await call('POST', '/api/v1/rollouts', {
    model_version: newest.id,
    target: 'has(device.tags.site)',
    phases: [{ kind: 'count', devices: 3 }, { kind: 'percent', percent: 70 }, { kind: 'percent', percent: 100 }],
    gates: { min_success: 0.5, device_timeout_s: 5 },
    soak_s: 2,
    harvest: { on_drift: true, max_samples: 24 },
  });
  await call('POST', `/api/v1/rollouts/${rollout.id}/start`);
  const ended = async () => ['completed', 'halted'].includes((await call('GET', `/api/v1/rollouts/${rollout.id}`)).state);
  await until('the rollout', ended, 180);
  const rows = await recordings(dataset.shape.channels);
  const there = (await call('GET', '/api/v1/devices?filter=site:*%20model:motions')).items.map((device) => device.id).filter((name) => name !== 'saw-09');
  const strange = new Set(there.slice(0, 2));
  for (let turn = 0; turn < 16; turn += 1)
    for (const name of there) await infer(name, line, rows, turn, strange.has(name) ? (row, channel) => row[(channel + 3) % row.length] * 2.5 + 4 : (row, channel) => row[channel]);
  await until('the drift', async () => (await call('GET', '/api/v1/device-counts')).alert >= 2);
  await call('POST', '/api/v1/claim-tokens', { uses: 25, lifetime_s: 172_800, tags: { site: 'porto' } });
  const plan = await call('POST', '/api/v1/rollouts', { model_version: newest.id, target: 'device.tags["fleet"] == "demo"' });
  const runs = (await call('GET', '/api/v1/runs?limit=20')).items;
  return { dataset, rollout: rollout.id, plan: plan.id, version: newest.id, runs, drifted: [...strange][0], manifest: newest.manifest };
}

function screens(made) {
  const compared = made.runs.slice(0, 3).map((run) => run.id).join(',');
  return {
    overview: '/',
    devices: '/devices',
    'devices-filtered': '/devices?filter=site%3A*%20-status%3Aalert',
    device: '/devices/device-a',
    'device-drifted': `/devices/${made.drifted}`,
    provisioning: '/provisioning',
    labeling: '/labeling',
    'labeling-queue': `/datasets/${made.dataset.name}/labeling`,
    'labeling-functions': `/datasets/${made.dataset.name}/labeling?tab=functions`,
    datasets: '/datasets',
    dataset: `/datasets/${made.dataset.name}`,
    'dataset-versions': `/datasets/${made.dataset.name}?tab=versions`,
    'dataset-import': `/datasets/${made.dataset.name}?tab=import`,
    'dataset-new': '/datasets/new',
    runs: '/runs',
    run: `/runs/${made.runs[0].id}`,
    'runs-compare': `/runs/compare?ids=${compared}`,
    'run-new': '/runs/new',
    registry: '/models',
    'registry-line': `/models/${made.dataset.name}`,
    'registry-version': `/model-versions/${made.version}`,
    rollouts: '/rollouts',
    rollout: `/rollouts/${made.rollout}`,
    'rollout-draft': `/rollouts/${made.plan}`,
    'rollout-new': `/rollouts/new?version=${made.version}&filter=${encodeURIComponent('site:*')}`,
    drift: '/drift',
    'drift-device': `/drift/${made.drifted}/${encodeURIComponent(made.manifest)}`,
    audit: '/audit',
    sessions: '/sessions',
  };
}

const PHONE = ['overview', 'device', 'rollout'];

/** Everything that was asked for is there, and nothing moves any more. */
async function settled(page) {
  // Forms have no states: a heading, and nothing that still loads.
  await page.waitForSelector('main h1');
  await page.waitForFunction(() => document.querySelector('#main .bone, #main [data-state="loading"], #main [aria-busy="true"]') === null);
  await page.evaluate(async () => {
    await document.fonts.ready;
    await Promise.all(document.getAnimations().filter((each) => each.effect?.getTiming().iterations !== Infinity).map((each) => each.finished));
    for (let frame = 0; frame < 10; frame += 1) await new Promise((resolve) => requestAnimationFrame(resolve));
  });
}

/** The name of a picture: the screen, `-phone` where it is narrow, and the theme. */
async function shoot(page, name) {
  await page.screenshot({ path: join(OUT, `${name}.png`) });
}

async function all(page, origin, addresses) {
  for (const [name, address] of Object.entries(addresses).filter(([each]) => each.includes(ONLY))) {
    for (const [width, height, suffix] of [[1440, 900, ''], ...(PHONE.includes(name) ? [[390, 844, '-phone']] : [])]) {
      await page.setViewportSize({ width, height });
      for (const colours of ['light', 'dark']) {
        await theme(page, colours);
        await page.goto(origin + address);
        await settled(page).catch((error) => poor.push(`${name}${suffix}-${colours}: ${error.message.split('\n')[0]}`));
        await shoot(page, `${name}${suffix}-${colours}`);
      }
    }
  }
}

/** What lies over every screen. */
async function overlays(page, origin) {
  await page.setViewportSize({ width: 1440, height: 900 });
  for (const [name, keys] of [['palette', 'Control+k'], ['keys', '?']]) {
    if (!name.includes(ONLY)) continue;
    for (const colours of ['light', 'dark']) {
      await theme(page, colours);
      await page.goto(`${origin}/devices`);
      await settled(page);
      await page.keyboard.press(keys);
      await page.getByRole('dialog').waitFor();
      await shoot(page, `${name}-${colours}`);
    }
  }
}

async function signIn(context, origin) {
  const page = await context.newPage();
  for (const colours of ['light', 'dark']) {
    await theme(page, colours);
    await page.goto(origin);
    await page.getByRole('heading').first().waitFor();
    await shoot(page, `sign-in-${colours}`);
  }
  await page.close();
}

try {
  await mkdir(OUT, { recursive: true });
  const { origin, token } = await demo();
  console.log(`the demo has been around the loop at ${origin}`);
  const call = caller(origin, token);
  const made = await furnish(call);
  const { context, close } = await openBrowser();
  try {
    context.setDefaultTimeout(60_000);
    if (process.env.E2E_CONSOLE !== undefined) await serveBuild(context, origin, process.env.E2E_CONSOLE);
    await signIn(context, origin);
    const page = await context.newPage();
    await page.goto((await call('POST', '/api/v1/sign-in-links')).url);
    await page.waitForSelector('.app');
    await all(page, origin, screens(made));
    await overlays(page, origin);
  } finally {
    await close();
  }
  for (const each of poor) console.log(`POOR  ${each}`);
  console.log(`written to ${OUT}/`);
  if (poor.length > 0) process.exitCode = 1;
} finally {
  for (const each of running.reverse()) await stop(each);
  await rm(folder, { recursive: true, force: true });
}
