// A file of 200 MB dropped on the import page: streamed from disk, with progress, and nothing of it stays when it is cancelled.
import assert from 'node:assert/strict';
import { open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { inState } from '../checks.mjs';
import { until } from '../server.mjs';

export const long = true;

const MB = 1_000_000;
const SIZE = 200 * MB;
/** What the page and the browser's processes may take more while the file passes through. */
const HEAP = 32 * MB;
const MEMORY = 160 * MB;

async function write(path) {
  const row = Array.from({ length: 8 }, (_unused, column) => (column * 1.25).toFixed(6)).join(',');
  const block = Buffer.from(`${row}\n`.repeat(Math.floor(MB / (row.length + 1))));
  const file = await open(path, 'w');
  let written = 0;
  try {
    await file.write('a,b,c,d,e,f,g,h\n');
    for (; written < SIZE; written += block.length) await file.write(block);
  } finally {
    await file.close();
  }
}

async function heap(client) {
  const { metrics } = await client.send('Performance.getMetrics');
  return metrics.find((metric) => metric.name === 'JSHeapUsedSize').value;
}

/** Resident bytes of one browser: of the process that was given its profile, and of those below it. Others run beside it. */
async function browserMemory(profile) {
  const processes = new Map();
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    try {
      const status = await readFile(`/proc/${pid}/status`, 'utf8');
      const field = (name) => new RegExp(`^${name}:\\s+(.*)$`, 'm').exec(status)?.[1] ?? '';
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8');
      processes.set(pid, { parent: field('PPid'), command, resident: Number.parseInt(field('RssAnon'), 10) * 1024 || 0 });
    } catch {
      // It has ended meanwhile.
    }
  }
  const below = (pid) => {
    for (let at = pid; at !== undefined && at !== '0'; at = processes.get(at)?.parent) if (processes.get(at)?.command.includes(profile) === true) return true;
    return false;
  };
  return [...processes].filter(([pid]) => below(pid)).reduce((sum, [, { resident }]) => sum + resident, 0);
}

/** Bytes of all files below a folder. */
async function onDisk(folder) {
  let total = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) total += (await stat(join(entry.parentPath, entry.name)).catch(() => ({ size: 0 }))).size;
  }
  return total;
}

/** Drops a file of the disk, as a file manager does. */
async function drop(client, target, path) {
  const box = await target.boundingBox();
  const at = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  const data = { items: [], files: [path], dragOperationsMask: 1 };
  for (const type of ['dragEnter', 'dragOver', 'drop']) await client.send('Input.dispatchDragEvent', { type, ...at, data });
}

const progress = (page, index) => page.locator('.datasets-going progress').nth(index).evaluate((bar) => bar.value / bar.max);

export const checks = [
  {
    name: '200 MB are streamed with progress, in little memory, and leave nothing when cancelled',
    async run({ page, origin, server, profile }) {
      const path = join(server.folder, 'large.csv');
      await write(path);
      const { id } = await server.call('POST', '/api/v1/datasets', { name: 'large', labels: ['a', 'b'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      const client = await page.context().newCDPSession(page);
      await client.send('Performance.enable');
      const waits = [];
      page.on('request', (request) => {
        if (/wait_ms=/.test(request.url())) waits.push(request.url());
      });
      await page.goto(`${origin}/datasets/large?tab=import`);
      await page.locator('.datasets-drop').waitFor();
      const before = { heap: await heap(client), memory: await browserMemory(profile), disk: await onDisk(server.home) };
      const most = { heap: 0, memory: 0 };
      const measure = async () => {
        most.heap = Math.max(most.heap, (await heap(client)) - before.heap);
        most.memory = Math.max(most.memory, (await browserMemory(profile)) - before.memory);
      };

      // Cancelled while it is being sent.
      // One that misses its place changes nothing: the console is still there.
      await drop(client, page.getByRole('heading', { level: 1 }), path);
      await drop(client, page.locator('.datasets-drop'), path);
      await page.getByRole('heading', { name: 'large.csv' }).waitFor();
      await page.getByText('8 columns').waitFor();
      // A link of 40 MB a second, so that there is something to see.
      const slow = (uploadThroughput) => client.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput });
      await slow(40 * MB);
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await inState(page, 'importing');
      const steps = new Set();
      await until('half of the file', async () => {
        const sent = await progress(page, 0);
        steps.add(Math.floor(sent * 20));
        await measure();
        return sent > 0.5;
      }, 120);
      assert.ok(steps.size >= 4, `the progress moved in ${steps.size} steps`);
      await page.getByText(/fleetctl datasets cancel-import/).waitFor();
      await page.getByRole('button', { name: 'Cancel' }).click();
      await page.getByText('large.csv was cancelled').waitFor();
      await nothingLeft(server, id, before.disk);

      // Cancelled while the server reads it.
      await slow(-1);
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await until('the server’s progress', async () => {
        await measure();
        return (await progress(page, 1)) > 0.02;
      }, 240);
      await page.getByText(/\d[\d,]* lines?, /).first().waitFor();
      assert.deepEqual(waits, [], 'how far it is comes by events');
      await page.getByRole('button', { name: 'Cancel' }).click();
      await page.getByText('large.csv was cancelled').waitFor();
      await nothingLeft(server, id, before.disk);

      console.log(`      200 MB: at most ${(most.heap / MB).toFixed(1)} MB more in the page’s heap, ${(most.memory / MB).toFixed(0)} MB more in the browser`);
      assert.ok(most.heap < HEAP, `${most.heap} bytes more in the page`);
      assert.ok(most.memory < MEMORY, `${most.memory} bytes more in the browser`);
      await rm(path);
    },
  },
];

async function nothingLeft(server, dataset, before) {
  await until('the end of the import', async () => {
    const { items } = await server.call('GET', `/api/v1/datasets/${dataset}/imports`);
    return items.every((item) => item.state === 'cancelled' || item.state === 'failed');
  });
  assert.equal((await server.call('GET', `/api/v1/datasets/${dataset}`)).samples, 0);
  // The database keeps its size; the file that was received is gone.
  await until('the room on the disk', async () => (await onDisk(server.home)) - before < SIZE / 4);
}
