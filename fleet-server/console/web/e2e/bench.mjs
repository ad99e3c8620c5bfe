// Measures the console against a real server and prints a line per figure: `figure NAME VALUE UNIT`. `npm run bench [-- part]`
// measures the parts that are named (sizes, paint, api, plan, filter, sort, scroll, label, live). BENCH_DEVICES is the size of the
// seeded fleet (100,000), BENCH_SAMPLES how often each thing is measured. Nothing is asserted about time: machines differ.
import { availableParallelism, cpus, loadavg } from 'node:os';
import { openBrowser } from './browser.mjs';
import { figure, say, spread } from './bench/figures.mjs';
import { list } from './bench/list.mjs';
import { live } from './bench/live.mjs';
import { paint } from './bench/paint.mjs';
import { importRecordings } from './motions.mjs';
import { startServer } from './server.mjs';
import { labelTimes, withTiming } from './timing.mjs';
import { KB, measure } from '../scripts/measure.mjs';

const DEVICES = Number(process.env.BENCH_DEVICES ?? 100_000);
const SAMPLES = Number(process.env.BENCH_SAMPLES ?? 20);
const parts = process.argv.slice(2).filter((part) => part !== '');
const wanted = (part) => parts.length === 0 || parts.includes(part);

async function sizes() {
  const { entry, routes, scripts, styles } = await measure(process.env.CONSOLE_OUT ?? 'dist');
  for (const [name, bytes] of [['entry_js', entry], ['route_js_largest', Math.max(...routes.values())], ['all_js', scripts], ['all_css', styles]]) figure(`${name}_gz`, bytes / KB, 'KB');
}

/** A page that is signed in; whatever it takes. */
async function signedIn(context, server) {
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  await withTiming(page);
  await page.goto(await server.signInLink());
  await page.waitForSelector('.app');
  return page;
}

/** Keys in the labeling queue of the demo's recordings. */
async function labels({ page, server, origin, samples }) {
  const dataset = await importRecordings(server);
  const count = Math.min(4 * samples, dataset.samples - 1);
  say(`${count} labels`);
  await page.goto(`${origin}/datasets/${dataset.name}/labeling`);
  await page.waitForSelector('[data-sample]');
  spread('label_key_to_next', await labelTimes(page, Array.from({ length: count }, (_unused, index) => String(1 + (index % dataset.labels.length)))));
  // A page that still holds labels asks before it is left.
  await page.getByText('all of it is with the server').waitFor();
}

async function against(server) {
  const { origin } = server;
  const { context, close } = await openBrowser();
  try {
    const page = await signedIn(context, server);
    const given = { context, page, server, origin, devices: DEVICES, samples: SAMPLES, wanted };
    if (wanted('paint')) await paint(given);
    await list(given);
    if (wanted('label')) await labels(given);
    if (wanted('live')) await live(given);
  } finally {
    await close();
  }
}

say(`${availableParallelism()} × ${cpus()[0]?.model}, load ${loadavg()[0].toFixed(1)}, Node ${process.version}`);
if (wanted('sizes')) await sizes();
if (parts.length !== 1 || parts[0] !== 'sizes') {
  say(`a fleet of ${DEVICES} devices is written`);
  const server = await startServer({
    prepare: async ({ config, releaseKey, example }) => say((await example('seed', config, releaseKey, String(DEVICES))).trim()),
  });
  try {
    await against(server);
  } finally {
    await server.close();
  }
}
say('done');
