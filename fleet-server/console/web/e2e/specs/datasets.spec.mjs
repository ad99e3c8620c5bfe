// Datasets: made, filled by a dropped file with progress, cancel and errors, looked at, frozen; by mouse and by keys.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { accessible, fits, inState, shot, small, theme } from '../checks.mjs';
import { command } from '../hands.mjs';
import { until } from '../server.mjs';

const THEMES = ['light', 'dark'];

/** A name of its own for each run: the server may be one that is there already. */
const NAME = `walks-${Date.now().toString(36)}`;
const SPEC = {
  name: NAME,
  labels: ['still', 'moving', '<b>"קפיצה" 🦘</b>'],
  shape: { kind: 'series', case_columns: ['case'], order_column: 'step', channels: ['accel_x', 'accel_y', 'temp'], window: 20, hop: 20, rate_hz: 10, statistics: ['mean', 'std'] },
  drop_columns: [],
  split: { kind: 'hash', holdout: 0.25 },
};

/** `cases` recordings of one window each. */
export function csv(cases, from = 0) {
  const lines = ['case,step,accel_x,accel_y,temp'];
  for (let one = from; one < from + cases; one += 1)
    for (let step = 0; step < 20; step += 1) lines.push(`${one},${step},${Math.sin(step / 3 + one).toFixed(4)},${(Math.cos(step / 2) * (1 + (one % 5))).toFixed(4)},${20 + (one % 7)}`);
  return `${lines.join('\n')}\n`;
}

export function file(name, text) {
  return { name, mimeType: 'text/csv', buffer: Buffer.from(text) };
}

const problem = (title, detail, status = 422) => ({
  status,
  contentType: 'application/problem+json',
  body: JSON.stringify({ type: 'urn:flotilla:problem:refused', title, status, detail }),
});

/** Opens a screen whose answers do not come, or are refused. */
async function broken(page, address, pattern, state, name) {
  await page.route(pattern, (route) => (state === 'loading' ? new Promise(() => undefined) : route.fulfill(problem('Refused', 'not today'))));
  await page.goto(address);
  await page.waitForSelector('h1');
  await accessible(page, state, name);
  await page.unroute(pattern);
}

/** An import that is sent by hand, as another program would. */
function importByHand(server, dataset, length, query = 'slice=elsewhere') {
  const sending = request(`${server.origin}/api/v1/datasets/${dataset}/imports?${query}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv', 'content-length': length },
  });
  // It is cut off in the middle.
  sending.on('error', () => undefined);
  return sending;
}

export const checks = [
  {
    name: 'a fleet without datasets says what to do',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.route('**/api/v1/datasets?**', (route) => route.fulfill({ contentType: 'application/json', body: '{"items":[]}' }));
        await page.goto(`${origin}/datasets`);
        await accessible(page, 'empty', name);
        await page.getByRole('link', { name: 'Make the first dataset' }).waitFor();
        await shot(page, `datasets-empty-${name}`);
        await page.unroute('**/api/v1/datasets?**');
      }
    },
  },
  {
    name: 'a dataset is made by keys, and the form loses nothing',
    async run({ page, origin }) {
      await theme(page, 'light');
      await page.goto(`${origin}/datasets/new`);
      await page.getByLabel('Name').fill(NAME);
      await page.getByLabel('Classes').fill(SPEC.labels.join(', '));
      await page.getByLabel('A window of a time series').focus();
      await page.keyboard.press('Space');
      await page.getByRole('button', { name: 'Make the dataset' }).focus();
      await page.keyboard.press('Enter');
      await page.getByText('Name the measured columns.').waitFor();
      await page.reload();
      assert.equal(await page.getByLabel('Name').inputValue(), NAME, 'a draft outlives a reload');
      await page.setInputFiles('input[type=file]', file('first.csv', csv(2)));
      const offered = page.getByRole('group', { name: 'Columns of the file for Channels' });
      for (const column of ['accel_x', 'accel_y', 'temp']) await offered.getByRole('button', { name: column }).click();
      await page.getByRole('group', { name: 'Columns of the file for Recording' }).getByRole('button', { name: 'case' }).click();
      await page.getByRole('group', { name: 'Columns of the file for Step' }).getByRole('button', { name: 'step' }).click();
      await page.getByLabel('Window', { exact: true }).fill('20');
      await page.getByLabel('Hop').fill('20');
      await page.getByText(/fleetctl datasets create/).waitFor();
      await page.getByRole('button', { name: /^Make the dataset/ }).focus();
      await page.keyboard.press('Enter');
      await page.waitForURL(new RegExp(`/datasets/${NAME}\\?tab=import`));
      await page.getByRole('heading', { name: 'first.csv' }).waitFor();
      await shot(page, 'datasets-import-chosen');
    },
  },
  {
    name: 'a dropped file comes in, and one that is wrong says where',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${NAME}?tab=import`);
      const drop = (name, text) =>
        page.evaluate(
          ([called, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([content], called, { type: 'text/csv' }));
            document.querySelector('.datasets-drop')?.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
          },
          [name, text],
        );
      await page.waitForSelector('.datasets-drop');
      const wrong = csv(4).replace('0,5,', '0,5,oops');
      await drop('wrong.csv', wrong);
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await page.getByText(/line 7, column 'accel_x'/).first().waitFor();
      await accessible(page, 'error');
      await shot(page, 'datasets-import-refused');
      await page.getByRole('button', { name: 'Take another' }).click();
      await drop('right.csv', csv(60));
      await page.getByText(/fleetctl datasets import .* right\.csv/).waitFor();
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await page.getByText('right.csv is in').waitFor();
      await page.getByRole('row', { name: /finished/ }).waitFor();
      await page.getByRole('row', { name: /failed.*line 7/ }).waitFor();
      await page.getByRole('button', { name: 'Show the samples' }).click();
      await inState(page, 'full');
      await page.getByRole('tab', { name: /Samples 60/ }).waitFor();
    },
  },
  {
    name: 'an import shows how far it is, goes on elsewhere in the console, and is cancelled',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${NAME}?tab=import`);
      const client = await page.context().newCDPSession(page);
      await page.setInputFiles('input[type=file]', file('long.csv', csv(9000, 1000)));
      // Slow enough to see it: 400 KB a second.
      await client.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 400_000 });
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await inState(page, 'importing');
      await page.waitForFunction(() => (document.querySelector('.datasets-going progress')?.value ?? 0) > 0);
      await accessible(page, 'importing');
      await shot(page, 'datasets-importing');
      await page.getByRole('tab', { name: /Samples/ }).click();
      await page.getByText(/long\.csv: .*(sent|being read)/).waitFor();
      await page.getByRole('button', { name: 'Show', exact: true }).click();
      await page.getByRole('button', { name: 'Cancel' }).click();
      await page.getByText('long.csv was cancelled').waitFor();
      await client.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
      await page.getByRole('row', { name: /cancelled/ }).waitFor();
      await page.reload();
      await page.getByRole('tab', { name: /Samples 60/ }).waitFor();
    },
  },
  {
    name: 'where a file goes is kept with it while something else is looked at, and with the next one',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${NAME}?tab=import`);
      await page.setInputFiles('input[type=file]', file('march.csv', csv(2)));
      const slice = page.getByLabel('Slice', { exact: true });
      const split = page.getByLabel('Split', { exact: true });
      await slice.fill('march');
      await split.selectOption('holdout');
      const kept = async (what) => {
        await page.getByText(/fleetctl datasets import .* --slice march --split holdout/).waitFor();
        assert.deepEqual([await slice.inputValue(), await split.inputValue()], ['march', 'holdout'], what);
      };
      await page.getByRole('tab', { name: /^Samples/ }).click();
      await inState(page, 'full');
      await page.getByRole('tab', { name: 'Import' }).click();
      await page.getByRole('heading', { name: 'march.csv' }).waitFor();
      await kept('after another tab');
      await page.getByRole('link', { name: 'Devices', exact: true }).click();
      await page.getByRole('heading', { name: 'Devices', exact: true }).waitFor();
      await page.goBack();
      await page.getByRole('heading', { name: 'march.csv' }).waitFor();
      await kept('after another screen');
      await page.getByRole('button', { name: 'Take another' }).click();
      await page.setInputFiles('input[type=file]', file('march-2.csv', csv(2)));
      await page.getByRole('heading', { name: 'march-2.csv' }).waitFor();
      await kept('with the next file');
    },
  },
  {
    name: 'an import whose connection is lost: what became of it is what the server says, and not known while it says nothing',
    async run({ page, origin, server }) {
      const lost = `lost-${Date.now().toString(36)}`;
      await server.call('POST', '/api/v1/datasets', { name: lost, labels: ['a', 'b'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      const rows = (from) => Buffer.from(`x,y\n${Array.from({ length: 500 }, (_unused, index) => `${from + index},${index / 7}`).join('\n')}\n`);
      const samples = async () => (await server.call('GET', `/api/v1/datasets/${lost}`)).samples;
      let arrives;
      await page.route('**/api/v1/datasets/*/imports?**', async (route) => {
        if (route.request().method() !== 'POST') return route.fallback();
        // What the browser sends arrives on another way; its own connection brings no answer.
        await arrives(new URL(route.request().url()).searchParams);
        return route.abort('connectionreset');
      });
      await page.goto(`${origin}/datasets/${lost}?tab=import`);

      arrives = async (query) => {
        const answer = await fetch(`${server.origin}/api/v1/datasets/${lost}/imports?${query}`, { method: 'POST', headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv' }, body: rows(0) });
        assert.equal(answer.status, 201, await answer.text());
      };
      await page.route('**/api/v1/imports/*', (route) => route.abort('connectionrefused'));
      await page.setInputFiles('input[type=file]', { name: 'all.csv', mimeType: 'text/csv', buffer: rows(0) });
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await page.getByText('It is not known whether all.csv came in').waitFor();
      await page.getByRole('heading', { name: 'all.csv' }).waitFor();
      await accessible(page, 'error');
      await shot(page, 'datasets-import-unknown');
      await page.unroute('**/api/v1/imports/*');
      await page.getByRole('button', { name: 'Try again' }).click();
      await page.getByText('all.csv is in').waitFor();
      assert.equal(await samples(), 500);

      const more = rows(10_000);
      const half = Math.floor(more.length / 2);
      let sending;
      arrives = async (query) => {
        sending = importByHand(server, lost, more.length, query);
        sending.write(more.subarray(0, half));
        await until('the import', async () => (await server.call('GET', `/api/v1/imports/${query.get('import')}`)).state === 'receiving');
      };
      await page.setInputFiles('input[type=file]', { name: 'more.csv', mimeType: 'text/csv', buffer: more });
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await page.getByText('The connection was lost while it was being sent').waitFor();
      await accessible(page, 'importing');
      sending.end(more.subarray(half));
      await page.getByText('more.csv is in').waitFor();
      assert.equal(await samples(), 1000);
    },
  },
  {
    name: 'an import that somebody else started is followed by its events, without asking on',
    async run({ page, origin, server }) {
      const asked = [];
      page.on('request', (sent) => {
        if (/\/api\/v1\/imports\//.test(sent.url())) asked.push(sent.url());
      });
      await page.goto(`${origin}/datasets/${NAME}?tab=import`);
      await page.locator('.datasets-drop').waitFor();
      const text = Buffer.from(csv(400, 20_000));
      const sending = importByHand(server, NAME, text.length);
      const heading = page.getByRole('heading', { name: 'Another import is under way' });
      // Somebody's slow line: a hundredth of the file at a time, never all of it.
      let sent = 0;
      const slow = setInterval(() => {
        if (sent < 80) sending.write(text.subarray((sent * text.length) / 100, ((sent + 1) * text.length) / 100));
        sent += 1;
      }, 100);
      await heading.waitFor();
      const steps = [];
      while (steps.length < 4) {
        const moved = await page.waitForFunction(([last, name]) => {
          const value = document.querySelector(`progress[aria-label="${name}"]`)?.value;
          return value > last ? value : false;
        }, [steps.at(-1) ?? 0, 'The server receives it']);
        steps.push(await moved.jsonValue());
      }
      clearInterval(slow);
      await command(page, /fleetctl datasets cancel-import /);
      sending.destroy();
      await heading.waitFor({ state: 'detached' });
      await page.getByRole('row', { name: /elsewhere.*failed.*the body ended early/ }).waitFor();
      assert.deepEqual(asked, [], 'the events say it all');
      await page.getByRole('tab', { name: /Samples 60/ }).waitFor();
    },
  },
  {
    name: 'the list: full, loading and error, in both themes',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/datasets`);
        await accessible(page, 'full', name);
        await small(page);
        await page.getByRole('row', { name: new RegExp(NAME) }).waitFor();
        await shot(page, `datasets-${name}`);
        for (const state of ['loading', 'error']) await broken(page, `${origin}/datasets`, '**/api/v1/datasets?**', state, name);
      }
    },
  },
  {
    name: 'every part of a dataset: full, loading and error, in both themes',
    async run({ page, origin, server }) {
      if (server !== undefined) {
        const { items } = await server.call('GET', `/api/v1/datasets/${NAME}/samples?limit=60`);
        await server.call('POST', `/api/v1/datasets/${NAME}/annotations`, { annotations: items.slice(0, 40).map((sample, index) => ({ sample: sample.digest, label: SPEC.labels[index % 3] })) });
        await server.call('POST', `/api/v1/datasets/${NAME}/versions`, { note: 'first <i>try</i>' });
      }
      for (const name of THEMES) {
        await theme(page, name);
        for (const tab of ['samples', 'structure', 'versions', 'import']) {
          await page.goto(`${origin}/datasets/${NAME}?tab=${tab}`);
          await accessible(page, 'full', name);
          await small(page);
          await shot(page, `dataset-${tab}-${name}`);
        }
        for (const [tab, pattern] of [['samples', '**/samples?**'], ['versions', '**/versions?**'], ['import', '**/imports?**']])
          for (const state of ['loading', 'error']) await broken(page, `${origin}/datasets/${NAME}?tab=${tab}`, pattern, state, name);
        await broken(page, `${origin}/datasets/${NAME}`, `**/api/v1/datasets/${NAME}`, 'error', name);
        await page.goto(`${origin}/datasets/new`);
        await page.getByRole('heading', { name: 'New dataset' }).waitFor();
        await accessible(page, 'form', name);
        await shot(page, `datasets-new-${name}`);
      }
    },
  },
  {
    name: 'a sample opens with its values, and the address says which',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${NAME}?slice=import&split=train`);
      await inState(page, 'full');
      await page.keyboard.press('j');
      await page.keyboard.press('Enter');
      const dialog = page.getByRole('dialog');
      await dialog.getByRole('img', { name: /accel over 2 seconds/ }).waitFor();
      assert.match(page.url(), /sample=sha256/);
      await accessible(page, 'full');
      await shot(page, 'dataset-sample');
      const before = page.url();
      await dialog.getByRole('button', { name: 'Next' }).click();
      await page.waitForURL((url) => url.href !== before);
      await page.keyboard.press('Escape');
      await dialog.waitFor({ state: 'detached' });
      assert.match(page.url(), /split=train/);
    },
  },
  {
    name: 'a sample opens by its address, on whatever page of the list it stands',
    async run({ page, origin, server }) {
      const pages = [];
      page.on('request', (sent) => {
        const url = new URL(sent.url());
        if (url.pathname.endsWith('/samples') && url.searchParams.get('values') === 'true') pages.push(sent.url());
      });
      const { items } = await server.call('GET', `/api/v1/datasets/${NAME}/samples?labelled=true&limit=1`);
      const { digest, key } = items[0];
      await page.goto(`${origin}/datasets/${NAME}?labelled=no&sample=${encodeURIComponent(digest)}`);
      const dialog = page.getByRole('dialog', { name: 'Sample', exact: true });
      await dialog.getByRole('img', { name: /accel over 2 seconds/ }).waitFor();
      await dialog.getByText(key, { exact: true }).waitFor();
      assert.equal(await command(dialog, 'fleetctl datasets sample'), `fleetctl datasets sample ${NAME} ${digest}`);
      await accessible(page, 'full');
      assert.deepEqual(pages, [], 'no page is asked for its values');
      await page.goto(`${origin}/datasets/${NAME}?sample=${encodeURIComponent(`sha256:${'0'.repeat(64)}`)}`);
      await dialog.getByText('The sample could not be loaded').waitFor();
      await dialog.getByRole('button', { name: 'Close' }).click();
      await dialog.waitFor({ state: 'detached' });
    },
  },
  {
    name: 'a version is frozen by keys alone and leads to a run',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${NAME}`);
      await inState(page, 'full');
      await page.keyboard.press('v');
      await page.getByRole('button', { name: 'Freeze a version…' }).focus();
      await page.keyboard.press('Enter');
      const dialog = page.getByRole('dialog');
      await dialog.getByLabel('Least confidence of a guess').fill('2');
      await page.keyboard.press('Enter');
      await dialog.getByText('A number from 0 to 1.').waitFor();
      await dialog.getByLabel('Least confidence of a guess').fill('0.9');
      await dialog.getByLabel('Note').fill('by keys');
      await dialog.getByText(/fleetctl versions create .*--min-confidence 0.9 --note 'by keys'/).waitFor();
      await page.keyboard.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      await page.getByRole('region', { name: /^Version \d+$/ }).getByText('by keys').waitFor();
      await page.keyboard.press('n');
      await page.waitForURL(/\/runs\/new\?dataset=.*version=/);
    },
  },
  {
    name: 'nothing is wider than a phone',
    async run({ page, origin }) {
      await page.setViewportSize({ width: 390, height: 844 });
      for (const address of ['/datasets', '/datasets/new', ...['samples', 'structure', 'versions', 'import'].map((tab) => `/datasets/${NAME}?tab=${tab}`)]) {
        await page.goto(origin + address);
        await page.locator('#main [data-state=full], #main [data-state=form]').first().waitFor();
        await fits(page);
      }
    },
  },
];
