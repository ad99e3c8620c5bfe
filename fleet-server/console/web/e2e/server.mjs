// A fleet server of its own for a check: real, in a temporary folder, on free ports; agents that enrol with it.
import { AssertionError } from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where cargo puts binaries: CARGO_TARGET_DIR, or `target` at the repository's root. */
const BIN = join(process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL('../../../../target', import.meta.url)), 'debug');

/** Below the range that outgoing connections take theirs from: while a server restarts, nobody else gets its port. */
const PORTS = { from: 10_000, to: 32_000 };
const taken = new Set();

async function freePort() {
  for (;;) {
    const port = PORTS.from + Math.floor(Math.random() * (PORTS.to - PORTS.from));
    if (taken.has(port)) continue;
    taken.add(port);
    const probe = createServer();
    const free = await new Promise((resolve) => {
      probe.once('error', () => resolve(false));
      probe.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!free) continue;
    probe.close();
    await once(probe, 'close');
    return port;
  }
}

/** Runs to its end; what it printed, or an error with what it said. */
async function run(program, args, env = {}) {
  const child = spawn(join(BIN, program), args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (data) => (out += data));
  child.stderr.on('data', (data) => (err += data));
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}:\n${out}${err}`);
  return out;
}

function start(program, args) {
  const child = spawn(join(BIN, program), args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said = (said + data).slice(-8000)));
  return { child, said: () => said };
}

async function stop({ child }) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  await once(child, 'close');
}

/** Asks until `probe` gives something, at most `seconds`. What fails is asked again; what is asserted is not. */
export async function until(what, probe, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await probe().catch((error) => {
      if (error instanceof AssertionError) throw error;
      return undefined;
    });
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what} did not come within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** `prepare` is given what is needed to fill the database before the server opens it. */
export async function startServer({ prepare } = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'flotilla-e2e-'));
  const [api, deviceApi, broker] = [await freePort(), await freePort(), await freePort()];
  const origin = `http://127.0.0.1:${api}`;
  const home = join(folder, 'fleet');
  await run('fleet-server', [
    'init', '--dir', home, '--offline-keys', join(folder, 'keys'), '--host', '127.0.0.1', '--bundle-interval-ms', '1000',
    '--api', `127.0.0.1:${api}`, '--device-api', `127.0.0.1:${deviceApi}`, '--broker', `127.0.0.1:${broker}`,
  ]);
  const token = (await readFile(join(home, 'admin.token'), 'utf8')).trim();
  const running = { server: undefined, agents: [] };
  const config = join(home, 'fleet.toml');
  if (prepare !== undefined) await prepare({ config, example: (name, ...args) => run(join('examples', name), args) });
  const boot = async () => {
    running.server = start('fleet-server', ['serve', '--config', config]);
    await until('the server', async () => {
      if (running.server.child.exitCode !== null) throw new Error(running.server.said());
      return (await fetch(`${origin}/readyz`)).ok;
    });
  };
  await boot();
  const call = async (method, path, body) => {
    const response = await fetch(`${origin}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text === '' ? undefined : JSON.parse(text);
  };
  return {
    origin,
    token,
    folder,
    /** Where the server keeps everything. */
    home,
    call,
    /** The end of what the server printed. */
    said: () => running.server.said(),
    /** `fleetctl …` against this server. */
    fleetctl: (...args) => run('fleetctl', args, { FLOTILLA_SERVER: origin, FLOTILLA_TOKEN: token, FLOTILLA_PROFILE: join(folder, 'profile.toml') }),
    /** The address that signs a browser in, once. */
    signInLink: async () => (await call('POST', '/api/v1/sign-in-links')).url,
    /** A real agent, enrolled and running; `hardware` is what it says it is. */
    async addAgent(name, { hardware = 'bench' } = {}) {
      const bundle = join(folder, `${name}.bundle.json`);
      const config = join(folder, `${name}.toml`);
      const token = await call('POST', '/api/v1/claim-tokens', { uses: 1, lifetime_s: 600, tags: { site: 'bench' } });
      await writeFile(bundle, JSON.stringify(token.factory_bundle));
      await writeFile(config, `data_dir = ${JSON.stringify(join(folder, name))}\nhardware_class = ${JSON.stringify(hardware)}\nlisten = "127.0.0.1:0"\n`);
      await run('fleet-agent', ['enrol', '--bundle', bundle, '--config', config, '--device-id', name]);
      const agent = start('fleet-agent', ['run', '--config', config]);
      running.agents.push(agent);
      return agent;
    },
    restart: async () => {
      await stop(running.server);
      await boot();
    },
    stopServer: () => stop(running.server),
    startAgain: boot,
    async close() {
      for (const agent of running.agents) await stop(agent);
      await stop(running.server);
      await rm(folder, { recursive: true, force: true });
    },
  };
}
