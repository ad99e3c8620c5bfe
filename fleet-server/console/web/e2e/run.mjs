// Runs the browser checks: `npm run e2e [-- part-of-a-name]`. Each file in `specs/` exports `checks`, a list of
// `{ name, run({ page, context, origin, server }) }`. Every file gets a fleet server and a browser of its own, so that no file
// finds what another one left behind; every check gets a page of its own, signed in.
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openBrowser, watch } from './browser.mjs';
import { startServer } from './server.mjs';

const wanted = process.argv[2] ?? '';
let failed = 0;
let ran = 0;

async function signIn(context, server) {
  const page = await context.newPage();
  await page.goto(await server.signInLink());
  await page.waitForSelector('.app');
  await page.close();
}

async function runCheck(name, check, { context, server }) {
  const { origin } = server;
  const page = await context.newPage();
  const wrong = watch(page, origin);
  const began = performance.now();
  ran += 1;
  try {
    await check.run({ page, context, origin, server });
    if (wrong.length > 0) throw new Error(wrong.join('\n'));
    console.log(`ok    ${name} (${Math.round(performance.now() - began)} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n${error.stack}\n`);
    await page.screenshot({ path: join(tmpdir(), `flotilla-e2e-${ran}.png`) }).catch(() => undefined);
  } finally {
    await page.close();
  }
}

async function runFile(checks) {
  const server = await startServer();
  try {
    const { context, close } = await openBrowser();
    try {
      await signIn(context, server);
      for (const [name, check] of checks) await runCheck(name, check, { context, server });
    } finally {
      await close();
    }
  } finally {
    await server.close();
  }
}

const folder = new URL('./specs/', import.meta.url);
for (const file of (await readdir(folder)).filter((name) => name.endsWith('.spec.mjs')).sort()) {
  const { checks } = await import(new URL(file, folder).href);
  const named = checks.map((check) => [`${file.replace('.spec.mjs', '')}: ${check.name}`, check]);
  const chosen = named.filter(([name]) => name.includes(wanted));
  if (chosen.length > 0) await runFile(chosen);
}
console.log(`${ran - failed} of ${ran} checks passed`);
process.exit(failed > 0 || ran === 0 ? 1 : 0);
