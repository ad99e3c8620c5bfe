// Runs the browser checks: `npm run e2e [-- part-of-a-name]`. Each file in `specs/` exports `checks`, a list of
// `{ name, run({ page, context, origin, server }) }`, and may export `prepare` (see server.mjs). Every file gets a fleet server
// and a browser of its own, so that no file finds what another one left behind; every check gets a page of its own, signed in.
// Files run side by side (E2E_WORKERS, two where there are two processors); the checks of one file follow each other.
import { readdir } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { openBrowser, serveBuild, watch } from './browser.mjs';
import { looked } from './checks.mjs';
import { coverage } from './coverage.mjs';
import { startServer } from './server.mjs';

const wanted = process.argv[2] ?? '';
const workers = Number(process.env.E2E_WORKERS ?? Math.min(2, availableParallelism()));
/** How long anything may take on a busy machine: what does not come has failed, what comes late has not. */
const PATIENCE_MS = 60_000;
let failed = 0;
let ran = 0;

async function signIn(context, server) {
  const page = await context.newPage();
  await page.goto(await server.signInLink());
  await page.waitForSelector('.app');
  await page.close();
}

async function runCheck(name, check, { context, profile, server }) {
  const { origin } = server;
  const page = await context.newPage();
  const wrong = watch(page, origin);
  const began = performance.now();
  ran += 1;
  const number = ran;
  try {
    await check.run({ page, context, origin, server, profile });
    if (wrong.length > 0) throw new Error(wrong.join('\n'));
    console.log(`ok    ${name} (${Math.round(performance.now() - began)} ms)`);
  } catch (error) {
    failed += 1;
    const picture = join(tmpdir(), `flotilla-e2e-${process.pid}-${number}.png`);
    const at = page.url();
    await page.screenshot({ path: picture }).catch(() => undefined);
    console.log(`FAIL  ${name}\n${error.stack}\nat ${at}, seen in ${picture}\nthe server's last words:\n${server.said().slice(-1500)}\n`);
  } finally {
    await page.close();
  }
}

async function runFile({ checks, prepare }) {
  const server = await startServer({ prepare });
  try {
    const { context, profile, close } = await openBrowser();
    context.setDefaultTimeout(PATIENCE_MS);
    if (process.env.E2E_CONSOLE !== undefined) await serveBuild(context, server.origin, process.env.E2E_CONSOLE);
    try {
      await signIn(context, server);
      for (const [name, check] of checks) await runCheck(name, check, { context, profile, server });
    } finally {
      await close();
    }
  } finally {
    await server.close();
  }
}

const folder = new URL('./specs/', import.meta.url);
const files = [];
for (const file of (await readdir(folder)).filter((name) => name.endsWith('.spec.mjs')).sort()) {
  const { checks, prepare, long = false } = await import(new URL(file, folder).href);
  const label = file.replace('.spec.mjs', '');
  const chosen = checks.map((check) => [`${label}: ${check.name}`, check]).filter(([name]) => name.includes(wanted));
  if (chosen.length > 0) files.push({ label, checks: chosen, prepare, long });
}
// The long ones first: none of them is left over at the end.
const queue = [...files.filter((file) => file.long), ...files.filter((file) => !file.long)];
const spent = [];
const all = performance.now();
await Promise.all(
  Array.from({ length: Math.max(1, workers) }, async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const began = performance.now();
      try {
        await runFile(file);
      } catch (error) {
        failed += 1;
        console.log(`FAIL  ${file.label}: could not be set up\n${error.stack}\n`);
      }
      spent.push([file.label, (performance.now() - began) / 1000]);
    }
  }),
);
for (const [label, seconds] of spent.sort((left, right) => right[1] - left[1])) console.log(`${seconds.toFixed(1).padStart(7)} s  ${label}`);
console.log(`${((performance.now() - all) / 1000).toFixed(1).padStart(7)} s  in all, ${workers} at a time`);
if (wanted === '') {
  const missing = await coverage(looked);
  failed += missing.length;
  for (const each of missing) console.log(`FAIL  axe has not looked at ${each}`);
}
console.log(`${ran} checks, ${failed} failures`);
process.exit(failed > 0 || ran === 0 ? 1 : 0);
