// The programs that checks run, as cargo built them; how they are asked, and how agents join a fleet.
import { AssertionError } from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
/** Where cargo puts binaries: CARGO_TARGET_DIR, or `target` at the repository's root. */
const BIN = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'debug');

/** Runs to its end; what it printed, or an error with what it said. */
export async function run(program, args, env = {}) {
  const child = spawn(join(BIN, program), args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (data) => (out += data));
  child.stderr.on('data', (data) => (err += data));
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}:\n${out}${err}`);
  return out;
}

/** Starts what goes on running; `said` gives the end of what it printed. */
export function start(program, args, { cwd } = {}) {
  const child = spawn(join(BIN, program), args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said = (said + data).slice(-8000)));
  return { child, said: () => said };
}

export async function stop({ child }, signal = 'SIGTERM') {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(signal);
  await once(child, 'close');
}

/** Asks until `probe` gives something, at most `seconds`. What fails is asked again; what is asserted is not. */
export async function until(what, probe, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  let wrong;
  for (;;) {
    const found = await probe().catch((error) => {
      if (error instanceof AssertionError) throw error;
      wrong = error;
      return undefined;
    });
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what} did not come within ${seconds} s`, { cause: wrong });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** The API of a server, for whoever holds `token`. */
export function caller(origin, token) {
  return async (method, path, body) => {
    const response = await fetch(`${origin}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text === '' ? undefined : JSON.parse(text);
  };
}

/** A real agent, enrolled and running, with its files in `folder`; `hardware` is what it says it is. */
export async function startAgent(call, folder, name, { hardware = 'bench', tags = { site: 'bench' } } = {}) {
  const bundle = join(folder, `${name}.bundle.json`);
  const config = join(folder, `${name}.toml`);
  const token = await call('POST', '/api/v1/claim-tokens', { uses: 1, lifetime_s: 600, tags });
  await writeFile(bundle, JSON.stringify(token.factory_bundle));
  await writeFile(config, `data_dir = ${JSON.stringify(join(folder, name))}\nhardware_class = ${JSON.stringify(hardware)}\nlisten = "127.0.0.1:0"\n`);
  await run('fleet-agent', ['enrol', '--bundle', bundle, '--config', config, '--device-id', name]);
  return start('fleet-agent', ['run', '--config', config]);
}
