// A fleet server of its own for a check: real, in a temporary folder, on free ports; agents that enrol with it.
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { caller, run, start, startAgent, stop, until } from './processes.mjs';

export { until };

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
  if (prepare !== undefined) await prepare({ config, releaseKey: join(folder, 'keys', 'release.key'), example: (name, ...args) => run(join('examples', name), args) });
  const boot = async () => {
    running.server = start('fleet-server', ['serve', '--config', config]);
    await until('the server', async () => {
      if (running.server.child.exitCode !== null) throw new Error(running.server.said());
      return (await fetch(`${origin}/readyz`)).ok;
    });
  };
  await boot();
  const call = caller(origin, token);
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
    fleetctl: (...args) => run('fleetctl', args, { FLOTILLA_SERVER: origin, FLOTILLA_TOKEN: token, FLOTILLA_PROFILE: '/dev/null' }),
    /** The address that signs a browser in, once. */
    signInLink: async () => (await call('POST', '/api/v1/sign-in-links')).url,
    /** A real agent, enrolled and running: `{ hardware, tags }` of it. */
    async addAgent(name, options) {
      const agent = await startAgent(call, folder, name, options);
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
