// Runs the browser checks: `npm run e2e [-- part-of-a-name]`. Each file in `specs/` exports `checks`, a list of
// `{ name, run({ page, context, origin, server }) }`; every check gets a page of its own, signed in.
//
// The console is the one that the server serves. While it serves none, `vite preview` stands in front of it (`npm run build`
// first). FLOTILLA_E2E_ORIGIN runs the checks that need no server of their own against a console that is running already.
import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openBrowser, watch } from './browser.mjs';
import { startServer, until } from './server.mjs';

const wanted = process.argv[2] ?? '';
const given = process.env.FLOTILLA_E2E_ORIGIN;
const server = given === undefined ? await startServer() : undefined;
let preview;

async function consoleOrigin() {
  if (given !== undefined) return given;
  const page = await fetch(`${server.origin}/`, { headers: { accept: 'text/html' } });
  if (page.ok && (await page.text()).includes('id="root"')) return server.origin;
  const root = fileURLToPath(new URL('..', import.meta.url));
  preview = spawn(process.execPath, ['node_modules/vite/bin/vite.js', 'preview', '--port', '4317', '--strictPort', '--host', '127.0.0.1'], {
    cwd: root,
    env: { ...process.env, FLOTILLA_SERVER: server.origin },
    stdio: 'inherit',
  });
  const origin = 'http://127.0.0.1:4317';
  await until('the preview', async () => (await fetch(origin)).ok, 20);
  return origin;
}

let failed = 0;
let ran = 0;
try {
  const origin = await consoleOrigin();
  const browser = await openBrowser();
  try {
    if (server !== undefined) {
      const page = await browser.context.newPage();
      const link = new URL(await server.signInLink());
      await page.goto(`${origin}/${link.hash}`);
      await page.waitForSelector('.app');
      await page.close();
    }
    const folder = new URL('./specs/', import.meta.url);
    for (const file of (await readdir(folder)).filter((name) => name.endsWith('.spec.mjs')).sort()) {
      const { checks } = await import(new URL(file, folder).href);
      for (const check of checks) {
        const name = `${file.replace('.spec.mjs', '')}: ${check.name}`;
        if (!name.includes(wanted) || (check.needsServer === true && server === undefined)) continue;
        const page = await browser.context.newPage();
        const wrong = watch(page, origin);
        const began = performance.now();
        ran += 1;
        try {
          await check.run({ page, context: browser.context, origin, server });
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
    }
  } finally {
    await browser.close();
  }
} finally {
  preview?.kill();
  await server?.close();
}
console.log(`${ran - failed} of ${ran} checks passed`);
process.exit(failed > 0 || ran === 0 ? 1 : 0);
