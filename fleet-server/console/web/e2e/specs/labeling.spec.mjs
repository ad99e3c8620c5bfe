// Labeling: functions and the label model, and the queue by keys with its speed.
import assert from 'node:assert/strict';
import { accessible, fits, inState, shot, small, theme } from '../checks.mjs';
import { command } from '../hands.mjs';
import { until } from '../server.mjs';
import { labelTimes, quantile, withTiming } from '../timing.mjs';
import { csv } from './datasets.spec.mjs';

const THEMES = ['light', 'dark'];
const SERIES = `queue-${Date.now().toString(36)}`;
const ROWS = `rows-${Date.now().toString(36)}`;

async function send(server, dataset, text) {
  const response = await fetch(`${server.origin}/api/v1/datasets/${dataset}/imports`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv' },
    body: text,
  });
  assert.equal(response.status, 201, await response.text());
}

const shown = (page) => page.locator('[data-sample]').getAttribute('data-sample');

export const checks = [
  {
    name: 'what there is to label',
    async run({ page, origin, server }) {
      await server.call('POST', '/api/v1/datasets', {
        name: SERIES,
        labels: ['still', 'moving', '<i>שלום</i> 🙂'],
        shape: { kind: 'series', case_columns: ['case'], order_column: 'step', channels: ['accel_x', 'accel_y', 'temp'], window: 20, hop: 20, rate_hz: 10, statistics: ['mean', 'std'] },
        split: { kind: 'all', split: 'train' },
      });
      await server.call('POST', '/api/v1/datasets', { name: ROWS, labels: ['low', 'high'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      await send(server, SERIES, csv(200));
      await send(server, ROWS, `a,b,"c, with <b>"\n${Array.from({ length: 30 }, (_unused, index) => `${index},${index / 7},${-index}`).join('\n')}\n`);
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/labeling`);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `labeling-${name}`);
        for (const [state, answer] of [['empty', { contentType: 'application/json', body: '{"items":[]}' }], ['loading', undefined], ['error', { status: 422, body: '{"title":"No","status":422,"detail":"not today"}' }]]) {
          await page.route('**/api/v1/datasets?**', (route) => (answer === undefined ? new Promise(() => undefined) : route.fulfill(answer)));
          await page.goto(`${origin}/labeling`);
          await page.waitForSelector('h1');
          await accessible(page, state, name);
          await page.unroute('**/api/v1/datasets?**');
        }
      }
      await page.goto(`${origin}/labeling`);
      await page.getByRole('row', { name: new RegExp(SERIES) }).getByRole('link', { name: SERIES, exact: true }).click();
      await page.waitForURL(new RegExp(`/datasets/${SERIES}/labeling`));
    },
  },
  {
    name: 'functions are added with the server’s word on mistakes, fitted with progress, compared, removed',
    async run({ page, origin, server }) {
      await theme(page, 'light');
      await page.goto(`${origin}/datasets/${SERIES}/labeling?tab=functions`);
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'empty', name);
      }
      await shot(page, 'labeling-functions-empty');
      await page.keyboard.press('c');
      const dialog = page.getByRole('dialog');
      await dialog.getByLabel('Name').fill('calm');
      await dialog.getByLabel('When', { exact: true }).fill('f["accel_y.sdt"] < 1.5');
      await dialog.getByRole('button', { name: 'Add', exact: true }).click();
      await dialog.locator('.field-error').waitFor();
      assert.match(await dialog.locator('.field-error').textContent(), /accel_y\.s/);
      assert.equal(await dialog.getByLabel('When', { exact: true }).inputValue(), 'f["accel_y.sdt"] < 1.5', 'nothing is lost');
      await shot(page, 'labeling-function-refused');
      await dialog.getByLabel('When', { exact: true }).fill('');
      const feature = dialog.getByRole('combobox', { name: /Insert a feature/ });
      const list = page.locator('[role=listbox]:popover-open');
      await feature.click();
      await list.waitFor();
      await page.keyboard.press('Enter');
      await list.waitFor({ state: 'detached' });
      await page.keyboard.press('ArrowDown');
      await list.waitFor();
      await page.keyboard.press('Escape');
      await list.waitFor({ state: 'detached' });
      assert.equal(await dialog.isVisible(), true, 'Escape closes the list, and the dialog only after it');
      await feature.fill('accel_y.std');
      await page.keyboard.press('Enter');
      await page.keyboard.type(' < 1.5');
      await dialog.getByText(/fleetctl labels lf add .*accel_y.std/).waitFor();
      await dialog.getByRole('button', { name: 'Add', exact: true }).click();
      await dialog.waitFor({ state: 'detached' });
      await page.getByRole('row', { name: /calm.*accel_y\.std/ }).waitFor();
      await page.getByText('Which functions contradict each other is known once the label model is fitted.').waitFor();
      for (const [name, when, label] of [['lively', 'f["accel_y.std"] >= 2.0', 'moving'], ['hot', 'f["temp.mean"] > 24.0', 'moving']]) {
        await page.keyboard.press('c');
        await dialog.getByLabel('Name').fill(name);
        await dialog.getByLabel('Votes for').selectOption(label);
        await dialog.getByLabel('When', { exact: true }).fill(when);
        await dialog.getByRole('button', { name: 'Add', exact: true }).click();
        await dialog.waitFor({ state: 'detached' });
      }
      await page.keyboard.press('f');
      await dialog.getByText(/fleetctl labels fit/).waitFor();
      await dialog.getByRole('button', { name: 'Fit', exact: true }).click();
      await page.waitForURL(/job=/);
      await page.getByRole('heading', { name: 'The label model is fitted' }).waitFor();
      await page.getByRole('region', { name: 'Label model' }).getByText('have at least one vote').waitFor();
      // Which of them contradict each other, as the server counts it.
      const matrix = page.getByRole('region', { name: 'Conflict matrix' });
      await matrix.waitFor();
      const found = await server.call('GET', `/api/v1/datasets/${SERIES}/labeling-function-conflicts`);
      const at = (name) => found.functions.findIndex((one) => one.name === name);
      const cells = matrix.locator('tbody tr').nth(at('calm')).locator('td');
      assert.equal(await cells.count(), 3);
      const both = found.overlaps[at('calm')][at('hot')];
      assert.match(await cells.nth(at('hot')).textContent(), both === 0 ? /never vote together/ : new RegExp(`^${found.conflicts[at('calm')][at('hot')]} of ${both}`));
      assert.match(await cells.nth(at('calm')).textContent(), new RegExp(`votes on ${found.overlaps[at('calm')][at('calm')]}$`));
      await command(page, `fleetctl labels lf conflicts ${SERIES}`);
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `labeling-functions-${name}`);
      }
      await page.getByRole('button', { name: 'Remove hot' }).click();
      await dialog.getByText(/fleetctl labels lf remove/).waitFor();
      await dialog.getByRole('button', { name: 'Remove', exact: true }).click();
      await dialog.waitFor({ state: 'detached' });
      await page.getByRole('grid').getByRole('row', { name: /hot/ }).waitFor({ state: 'detached' });
      await page.getByText('Functions have been added or removed since').waitFor();
    },
  },
  {
    name: 'the queue by keys: label, undo also of what is stored, skip, take the guess; how fast is reported',
    async run({ page, origin, server }) {
      await withTiming(page);
      await theme(page, 'light');
      await page.goto(`${origin}/datasets/${SERIES}/labeling`);
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `labeling-queue-${name}`);
      }
      const hand = async () => (await server.call('GET', `/api/v1/datasets/${SERIES}`)).hand_labels;
      const first = await shown(page);
      await page.keyboard.press('1');
      assert.notEqual(await shown(page), first);
      await page.keyboard.press('u');
      assert.equal(await shown(page), first, 'undo brings it back');
      await page.keyboard.press('s');
      assert.notEqual(await shown(page), first);
      await page.keyboard.press('u');
      assert.equal(await shown(page), first);
      assert.equal(await hand(), 0, 'what was taken back never arrived');
      const times = await labelTimes(page, Array.from({ length: 60 }, (_unused, index) => String(1 + (index % 3))));
      console.log(`      label key to next item: median ${quantile(times, 0.5).toFixed(1)} ms, p95 ${quantile(times, 0.95).toFixed(1)} ms`);
      await page.keyboard.press('a');
      // What is held back arrives by itself.
      await page.getByText('all of it is with the server').waitFor();
      assert.equal(await hand(), 61);
      // A stored label goes from the server, and its item is here as if nothing had been said of it.
      const line = await command(page, /fleetctl labels remove /);
      await page.keyboard.press('u');
      await page.getByText('1 label about to be taken back').waitFor();
      const undone = await shown(page);
      assert.ok(line.startsWith(`fleetctl labels remove ${SERIES} ${undone} --label `), `${line} takes back the label of ${undone}`);
      await until('the label to be gone', async () => (await hand()) === 60);
      const sample = await server.call('GET', `/api/v1/datasets/${SERIES}/samples/${undone}`);
      assert.notEqual(sample.label?.source, 'hand');
      assert.equal(await shown(page), undone);
      await page.keyboard.press('2');
      await page.getByText('1 label not sent yet').waitFor();
      // Leaving the queue sends it too.
      await page.getByRole('tab', { name: /By functions/ }).click();
      await page.getByText('61 of 200 labelled by hand').waitFor();
    },
  },
  {
    name: 'labels outlive a server that goes away',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/datasets/${SERIES}/labeling`);
      await inState(page, 'full');
      await server.stopServer();
      await page.keyboard.press('1');
      await page.keyboard.press('2');
      await page.getByText(/The server does not answer; \d labels? kept/).waitFor();
      await server.startAgain();
      await page.getByText('all of it is with the server').waitFor();
      assert.equal((await server.call('GET', `/api/v1/datasets/${SERIES}`)).hand_labels, 63);
    },
  },
  {
    name: 'keys are remapped, and table rows are shown; the end of the queue says what is next',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${ROWS}/labeling?order=newest`);
      await inState(page, 'full');
      await page.getByText('c, with <b>').waitFor();
      await page.getByRole('button', { name: 'Keys…' }).click();
      const dialog = page.getByRole('dialog');
      await dialog.getByLabel('high').fill('1');
      await dialog.getByText('This key is used twice.').waitFor();
      assert.equal(await dialog.getByRole('button', { name: 'Keep these' }).isDisabled(), true);
      await dialog.getByLabel('high').fill('h');
      await accessible(page, 'full');
      await shot(page, 'labeling-keys');
      await dialog.getByRole('button', { name: 'Keep these' }).click();
      const cursors = [];
      page.on('request', (request) => {
        const url = new URL(request.url());
        if (url.pathname.endsWith('/queue')) cursors.push(url.searchParams.get('cursor'));
      });
      await page.reload();
      await inState(page, 'full');
      await shot(page, 'labeling-rows');
      const seen = new Set();
      for (let count = 0; count < 29; count += 1) {
        const before = await shown(page);
        seen.add(before);
        await page.keyboard.press(count % 2 === 0 ? 'h' : '1');
        assert.notEqual(await shown(page), before);
      }
      assert.equal(seen.size, 29, 'no item is shown twice');
      assert.equal(cursors[0], null);
      assert.ok((cursors[1] ?? '') !== '', 'the second page begins where the first one ended');
      await page.keyboard.press('s');
      await page.getByText('Only the 1 item that you skipped is left.').waitFor();
      await page.getByRole('button', { name: 'Show the skipped ones again' }).click();
      await page.locator('[data-sample]').waitFor();
      await page.keyboard.press('h');
      await page.getByText('Every sample is labelled by hand').waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'empty', name);
      }
    },
  },
  {
    name: 'with more classes than buttons: what is chosen from the list labels, arrows and letters do not, and keys go on after it',
    async run({ page, origin, server }) {
      const many = `many-${Date.now().toString(36)}`;
      await server.call('POST', '/api/v1/datasets', { name: many, labels: [...Array.from({ length: 29 }, (_unused, index) => `class-${index + 1}`), 'sitting'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      await send(server, many, `a,b\n${Array.from({ length: 12 }, (_unused, index) => `${index},${index / 7}`).join('\n')}\n`);
      await page.goto(`${origin}/datasets/${many}/labeling`);
      await inState(page, 'full');
      assert.equal(await page.getByRole('group', { name: 'Labels' }).getByRole('button').count(), 9, 'those with keys are buttons');
      const first = await shown(page);
      const other = page.getByRole('combobox', { name: 'Another label' });
      await other.focus();
      for (let steps = 0; steps < 3; steps += 1) await page.keyboard.press('ArrowDown');
      await page.locator('[role=listbox]:popover-open [role=option][aria-selected=true]').filter({ hasText: 'class-3' }).waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
      }
      assert.equal(await shown(page), first, 'an arrow labels nothing');
      await page.keyboard.press('Tab');
      assert.equal(await shown(page), first, 'leaving the field labels nothing');
      await other.focus();
      await page.keyboard.type('sit');
      await page.locator('[role=listbox]:popover-open [role=option]').filter({ hasText: 'sitting' }).waitFor();
      assert.equal(await shown(page), first, 'letters narrow the list, and do nothing to the queue');
      await page.keyboard.press('Enter');
      const second = await shown(page);
      assert.notEqual(second, first);
      const newest = page.locator('.labeling-recent li').first();
      await newest.getByText('sitting').waitFor();
      await page.keyboard.press('s');
      await newest.getByText('skipped').waitFor();
      assert.notEqual(await shown(page), second, 'the next key is one of the queue');
      await page.keyboard.press('u');
      assert.equal(await shown(page), second);
      // By mouse as well.
      await other.click();
      await page.locator('[role=listbox]:popover-open [role=option]').filter({ hasText: 'class-12' }).click();
      await newest.getByText('class-12').waitFor();
      await page.keyboard.press('s');
      await newest.getByText('skipped').waitFor();
      await page.getByText('all of it is with the server').waitFor();
      const label = async (sample) => (await server.call('GET', `/api/v1/datasets/${many}/samples/${sample}`)).label;
      assert.deepEqual([(await label(first)).label, (await label(second)).label], ['sitting', 'class-12']);
      assert.equal((await server.call('GET', `/api/v1/datasets/${many}`)).hand_labels, 2);
    },
  },
  {
    name: 'thousands of labels that could not be sent are sent in parts; what is refused of them is left out, and given up alone',
    async run({ page, origin, server }) {
      const name = `backlog-${Date.now().toString(36)}`;
      const { id } = await server.call('POST', '/api/v1/datasets', { name, labels: ['low', 'high'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      await send(server, name, `a,b\n${Array.from({ length: 2000 }, (_unused, index) => `${index},${index / 7}`).join('\n')}\n`);
      const digests = [];
      for (let cursor = ''; cursor !== undefined && cursor !== null; ) {
        const part = await server.call('GET', `/api/v1/datasets/${name}/samples?limit=1000${cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`}`);
        digests.push(...part.items.map((sample) => sample.digest));
        cursor = part.next_cursor;
      }
      assert.equal(digests.length, 2000);
      const bodies = [];
      page.on('request', (request) => {
        if (request.method() === 'POST' && request.url().endsWith('/annotations')) bodies.push(request.postDataBuffer()?.length ?? 0);
      });
      await page.goto(`${origin}/devices`);
      await page.waitForSelector('.app');
      // As a tab has kept them, with one of a sample that is not there.
      await page.evaluate(
        async ([dataset, samples]) => {
          const { actor } = await (await fetch('/api/v1/session')).json();
          sessionStorage.setItem(`flotilla.unsent.${actor}.${dataset}`, JSON.stringify(samples.map((sample) => ({ sample, label: 'low' }))));
        },
        [id, [...digests, `sha256:${'0'.repeat(64)}`]],
      );
      await page.goto(`${origin}/datasets/${name}/labeling`);
      await page.getByText('1 label not taken by the server').waitFor();
      assert.equal((await server.call('GET', `/api/v1/datasets/${name}`)).hand_labels, 2000);
      assert.ok(bodies.length > 3 && Math.max(...bodies) <= 48 * 1024, `bodies of ${bodies.join(', ')} bytes`);
      await page.getByRole('button', { name: 'Give up what was refused' }).click();
      await page.getByText('1 label not taken by the server').waitFor({ state: 'detached' });
      assert.equal((await server.call('GET', `/api/v1/datasets/${name}`)).hand_labels, 2000);
    },
  },
  {
    name: 'the queue: loading and error, and a label that is refused',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.route('**/queue?**', () => new Promise(() => undefined));
        await page.goto(`${origin}/datasets/${SERIES}/labeling`);
        await page.waitForSelector('h1');
        await accessible(page, 'loading', name);
        await page.unroute('**/queue?**');
        await page.route('**/queue?**', (route) => route.fulfill({ status: 422, body: '{"title":"No","status":422,"detail":"not today"}' }));
        await page.goto(`${origin}/datasets/${SERIES}/labeling`);
        await accessible(page, 'error', name);
        await page.unroute('**/queue?**');
        for (const part of ['labeling-functions', 'labeling-function-conflicts']) {
          await page.route(`**/${part}`, (route) => route.fulfill({ status: 422, body: '{"title":"No","status":422,"detail":"not today"}' }));
          await page.goto(`${origin}/datasets/${SERIES}/labeling?tab=functions`);
          await accessible(page, 'error', name);
          await page.unroute(`**/${part}`);
        }
      }
      await page.goto(`${origin}/datasets/${SERIES}/labeling`);
      await inState(page, 'full');
      await page.route('**/annotations', (route) => route.fulfill({ status: 422, body: '{"title":"Refused","status":422,"detail":"nothing was labelled: 1 unknown sample(s)"}' }));
      await page.keyboard.press('1');
      await page.getByText('nothing was labelled').waitFor();
      await page.getByText('1 label not taken by the server').waitFor();
      await page.unroute('**/annotations');
      await page.getByRole('button', { name: 'Try again' }).click();
      await page.getByText('all of it is with the server').waitFor();
    },
  },
  {
    name: 'nothing is wider than a phone',
    async run({ page, origin }) {
      await page.setViewportSize({ width: 390, height: 844 });
      for (const address of ['/labeling', `/datasets/${SERIES}/labeling`, `/datasets/${SERIES}/labeling?tab=functions`]) {
        await page.goto(origin + address);
        await inState(page, 'full');
        await fits(page);
      }
    },
  },
  {
    name: 'no label is lost by signing out, by leaving and by closing',
    async run({ page, origin, server }) {
      const queue = `${origin}/datasets/${SERIES}/labeling`;
      const hand = async () => (await server.call('GET', `/api/v1/datasets/${SERIES}`)).hand_labels;
      const before = await hand();
      await page.goto(queue);
      await inState(page, 'full');
      await page.keyboard.press('1');
      await page.getByText('1 label not sent yet').waitFor();
      await page.getByRole('button', { name: /^Account/ }).click();
      await page.getByRole('menuitem', { name: 'Sign out' }).click();
      await page.getByRole('heading', { name: 'Sign in' }).waitFor();
      assert.equal(await hand(), before + 1, 'sent before the session ended');
      await page.goto(await server.signInLink());
      await page.waitForSelector('.app');
      // Refused after the queue was left: said where the person is now, kept, and sent by the next queue, also in a page that loads anew.
      await page.goto(queue);
      await inState(page, 'full');
      await page.route('**/annotations', (route) => route.fulfill({ status: 403, body: '{"title":"Not permitted","status":403,"detail":"this needs label"}' }));
      await page.keyboard.press('1');
      await page.getByRole('link', { name: 'Devices', exact: true }).click();
      await page.getByText(/1 label in .* not taken by the server, and kept/).waitFor();
      await page.getByRole('button', { name: /^Account/ }).click();
      await page.getByRole('menuitem', { name: 'Sign out' }).click();
      const dialog = page.getByRole('dialog', { name: 'You are still signed in' });
      await dialog.getByText(/1 label is not with the server yet/).waitFor();
      await dialog.getByRole('button', { name: 'Stay signed in' }).click();
      await page.unroute('**/annotations');
      // Closing asks first.
      const asked = new Promise((resolve) => {
        page.once('dialog', (asks) => {
          resolve(asks.type());
          void asks.accept();
        });
      });
      await page.goto(queue);
      assert.equal(await asked, 'beforeunload');
      await page.getByText(/all of it is with the server|a label is sent/).waitFor();
      await until('the label', async () => (await hand()) === before + 2);
    },
  },
];
