// The device list: with real agents, by mouse and by keys, in every state and both themes.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';
import { command } from '../hands.mjs';
import { until } from '../server.mjs';
import { startRun } from './runs.fixture.mjs';

const THEMES = ['light', 'dark'];
const refused = (route) => route.fulfill({ status: 403, contentType: 'application/problem+json', body: JSON.stringify({ title: 'Not permitted', status: 403, detail: 'not now' }) });

/** The two agents, for a check that is run alone. */
async function agents(server) {
  const { items } = await server.call('GET', '/api/v1/devices?limit=100');
  for (const name of ['edge-1', 'edge-2']) if (!items.some((device) => device.id === name)) await server.addAgent(name);
}

/** How far the words of headers end from the words of the first row below them, in columns of numbers. */
const misalignment = (page) =>
  page.evaluate(() => {
    const end = (element, which) => {
      const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      const words = [];
      while (texts.nextNode()) if (texts.currentNode.data.trim() !== '') words.push(texts.currentNode);
      const range = document.createRange();
      range.selectNodeContents(words.at(which));
      return range.getBoundingClientRect().right;
    };
    const heads = [...document.querySelectorAll('[role=grid] [role=columnheader]')];
    const cells = [...document.querySelectorAll('[role=grid] .tbody [role=row]')][0].querySelectorAll('[role=gridcell]');
    // The header's first words are its name, an arrow may follow.
    return heads.flatMap((head, index) => (head.classList.contains('end') ? [{ name: head.textContent, off: Math.abs(end(head, 0) - end(cells[index], -1)) }] : []));
  });

export const checks = [
  {
    name: 'an empty fleet says what to do',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/devices`);
        await accessible(page, 'empty', name);
        await page.getByText('There are no devices yet').waitFor();
        await shot(page, `devices-empty-${name}`);
      }
    },
  },
  {
    name: 'agents appear without a reload',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/devices`);
      await inState(page, 'empty');
      await server.addAgent('edge-1');
      await server.addAgent('edge-2');
      await page.getByRole('row', { name: /edge-1/ }).waitFor();
      await page.getByRole('row', { name: /edge-2.*Online/ }).waitFor();
    },
  },
  {
    name: 'headers end where the numbers below them end, sorted or not',
    async run({ page, origin }) {
      for (const sort of ['', '?sort=inferences', '?sort=-last_seen']) {
        await page.goto(`${origin}/devices${sort}`);
        await page.getByRole('row', { name: /edge-1/ }).waitFor();
        const found = await misalignment(page);
        assert.ok(found.length >= 3, `${found.length} columns of numbers`);
        for (const { name, off } of found) assert.ok(off < 1, `${name} is off by ${off} px`);
      }
    },
  },
  {
    name: 'full, loading and error, in both themes',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/devices`);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `devices-${name}`);
        await page.route('**/api/v1/devices?**', () => new Promise(() => undefined));
        await page.goto(`${origin}/devices`);
        await accessible(page, 'loading', name);
        await page.unroute('**/api/v1/devices?**');
        await page.route('**/api/v1/devices?**', (route) =>
          route.fulfill({
            status: 422,
            contentType: 'application/problem+json',
            body: JSON.stringify({ type: 'about:blank', title: 'Filter refused', status: 422, detail: "there is no field 'x'" }),
          }),
        );
        await page.goto(`${origin}/devices`);
        await accessible(page, 'error', name);
        await page.getByText("there is no field 'x'").waitFor();
        await page.unroute('**/api/v1/devices?**');
      }
    },
  },
  {
    name: 'filter, selection and typed confirmation by keys alone, everything in the address',
    async run({ page, origin }) {
      await page.goto(`${origin}/devices`);
      await inState(page, 'full');
      await page.keyboard.press('/');
      await page.keyboard.type('status:onl');
      await page.getByRole('option', { name: 'status:online' }).waitFor();
      await page.keyboard.press('ArrowDown');
      await page.keyboard.press('Enter');
      await page.waitForURL(/filter=status%3Aonline/);
      await page.waitForSelector('[role=grid][aria-busy=false]');
      await page.keyboard.press('Enter');
      assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('role')), 'grid');
      // Right after a jump: the row under the cursor is selected, whether it has been painted or not.
      await page.keyboard.press('End');
      await page.keyboard.press('x');
      await page.getByText('1 device selected').waitFor();
      await page.keyboard.press('Control+a');
      const bar = page.getByRole('region', { name: 'Selection' });
      await bar.getByRole('button', { name: 'Decommission…' }).focus();
      await page.keyboard.press('Enter');
      const dialog = page.getByRole('dialog');
      const confirm = dialog.getByRole('button', { name: 'Decommission', exact: true });
      assert.equal(await confirm.isDisabled(), true);
      await dialog.getByText(/fleetctl devices decommission --filter/).waitFor();
      await page.keyboard.press('Escape');
      await dialog.waitFor({ state: 'detached' });
      await page.reload();
      assert.equal(await page.getByRole('combobox', { name: 'Filter devices' }).inputValue(), 'status:online ');
    },
  },
  {
    name: 'how many rows match is said aloud: once for each question, never for what happens meanwhile',
    async run({ page, origin, server }) {
      await agents(server);
      await page.goto(`${origin}/devices`);
      await page.getByRole('row', { name: /edge-2/ }).waitFor();
      await page.evaluate(() => {
        const region = document.querySelector('.table > [role=status]');
        globalThis.said = [region.textContent];
        new MutationObserver(() => {
          if (globalThis.said.at(-1) !== region.textContent) globalThis.said.push(region.textContent);
        }).observe(region, { childList: true, characterData: true, subtree: true });
      });
      const says = (words) => page.waitForFunction((wanted) => document.querySelector('.table > [role=status]').textContent === wanted, words);
      const filter = page.getByRole('combobox', { name: 'Filter devices' });
      await filter.fill('id:edge-* ');
      await says('Devices: 2 rows');
      await server.addAgent('edge-3');
      await page.getByRole('row', { name: /edge-3/ }).waitFor();
      // Longer than a list waits before it speaks.
      await page.waitForTimeout(1000);
      await filter.fill('id:nowhere ');
      await says('Devices: no rows');
      assert.deepEqual(await page.evaluate(() => globalThis.said), ['', 'Devices: 2 rows', '', 'Devices: no rows']);
    },
  },
  {
    name: 'the counts stay while they cannot be asked again',
    async run({ page, origin, server }) {
      await agents(server);
      await page.goto(`${origin}/devices`);
      const online = page.getByRole('region', { name: 'Devices by state' }).getByRole('link', { name: /Online\s*\d/ });
      await online.waitFor();
      await page.route('**/api/v1/device-counts', refused);
      // When the second refusal comes, the first one has been taken up.
      for (let asked = 0; asked < 2; asked += 1) {
        const answered = page.waitForResponse('**/api/v1/device-counts');
        await server.call('PATCH', '/api/v1/devices/edge-1', { change: { set: { asked: String(asked) } } });
        await answered;
      }
      assert.equal(await online.count(), 1);
      assert.equal(await page.getByText('The counts could not be loaded').count(), 0);
      // Where nothing is known there is nothing to keep.
      await page.goto(`${origin}/devices`);
      await page.getByText('The counts could not be loaded').waitFor();
    },
  },
  {
    name: 'a list that could not be loaded is asked again, and its button is busy meanwhile',
    async run({ page, origin, server }) {
      await agents(server);
      await page.route('**/api/v1/devices?**', refused);
      await page.goto(`${origin}/devices`);
      const retry = page.locator('.table-state').getByRole('button', { name: 'Try again' });
      await retry.waitFor();
      await page.unroute('**/api/v1/devices?**');
      let answer;
      const waiting = new Promise((resolve) => (answer = resolve));
      await page.route('**/api/v1/devices?**', async (route) => {
        await waiting;
        return route.continue();
      });
      await retry.click();
      await retry.and(page.locator('[aria-busy=true][aria-disabled=true]')).waitFor();
      answer();
      await page.getByRole('row', { name: /edge-1/ }).waitFor();
    },
  },
  {
    name: 'tags of several devices are written as those of one: values with spaces, one per line',
    async run({ page, origin, server }) {
      await agents(server);
      await server.call('PATCH', '/api/v1/devices/edge-1', { change: { set: { old: '1' } } });
      await page.goto(`${origin}/devices?filter=id%3Aedge-1`);
      await page.getByRole('row', { name: /edge-1/ }).getByRole('checkbox').click();
      await page.getByRole('button', { name: 'Tag…' }).click();
      const dialog = page.getByRole('dialog', { name: 'Tag 1 device' });
      await dialog.getByLabel('Tags').fill('Oslo 1');
      await dialog.getByRole('button', { name: 'Tag 1 device' }).click();
      await dialog.getByText('write Oslo 1=value', { exact: false }).waitFor();
      await dialog.getByLabel('Tags').fill('site=Oslo 1\n-old');
      await dialog.getByText("fleetctl devices tag 'site=Oslo 1' --remove old --filter id:edge-1 --expect 1 --yes").waitFor();
      await dialog.getByRole('button', { name: 'Tag 1 device' }).click();
      await page.getByRole('heading', { name: 'The devices are changed' }).waitFor();
      const { tags } = await server.call('GET', '/api/v1/devices/edge-1');
      assert.deepEqual([tags.site, tags.old], ['Oslo 1', undefined]);
    },
  },
  {
    name: 'views of two tabs are both kept, and stored text that is no list of views breaks nothing',
    async run({ page, context, origin }) {
      const save = async (tab, name) => {
        await tab.getByRole('button', { name: /^Views/ }).click();
        await tab.getByRole('menuitem', { name: 'Save this view…' }).click();
        const dialog = tab.getByRole('dialog', { name: 'Save this view' });
        await dialog.getByLabel('Name').fill(name);
        await tab.keyboard.press('Enter');
        await dialog.waitFor({ state: 'detached' });
      };
      const other = await context.newPage();
      await page.goto(`${origin}/devices?filter=site%3Ahere`);
      await other.goto(`${origin}/devices?filter=site%3Athere`);
      await other.getByRole('button', { name: /^Views/ }).waitFor();
      await save(page, 'Here');
      await save(other, 'There');
      await page.getByRole('button', { name: /^Views/ }).click();
      for (const name of ['Here', 'There']) await page.getByRole('menuitemradio', { name, exact: true }).waitFor();
      await other.close();
      await page.evaluate(() => localStorage.setItem('flotilla.devices.views', '{"name":"no list"}'));
      await page.goto(`${origin}/devices`);
      await page.getByRole('row', { name: /edge-1/ }).or(page.getByText('There are no devices yet')).first().waitFor();
      await page.getByRole('button', { name: /^Views/ }).waitFor();
      await page.evaluate(() => localStorage.removeItem('flotilla.devices.views'));
    },
  },
  {
    name: 'an order that waits is cancelled by keys: it changes nothing, and says so after a reload too',
    async run({ page, origin, server }) {
      await agents(server);
      const busy = [];
      try {
        // Both workers have something to do: the order waits for one of them.
        for (const seed of [101, 102]) busy.push(await startRun(server, { experiment: 'endless', seed, trainer: { epochs: 1_000_000 } }));
        for (const { job } of busy) await until('a worker', async () => (await server.call('GET', `/api/v1/jobs/${job}`)).state === 'running');
        const { id } = await server.call('POST', '/api/v1/device-actions', { ids: ['edge-1', 'edge-2'], expected_total: 2, action: { tag: { set: { wave: '1' } } } });
        await page.goto(`${origin}/devices?job=${id}`);
        await page.getByText('Waiting for a worker').waitFor();
        await command(page, `fleetctl jobs cancel ${id}`);
        for (const name of THEMES) {
          await theme(page, name);
          await accessible(page, 'full', name);
          await shot(page, `devices-job-${name}`);
        }
        await page.getByRole('button', { name: 'Cancel', exact: true }).press('Enter');
        await page.getByRole('heading', { name: 'The change was cancelled' }).waitFor();
        assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Dismiss', 'the focus stays where it was');
        await page.reload();
        await page.getByText('cancelled before it began').waitFor();
        for (const name of ['edge-1', 'edge-2']) assert.equal((await server.call('GET', `/api/v1/devices/${name}`)).tags.wave, undefined);
      } finally {
        // The same on the command line.
        for (const { id, job } of busy) {
          assert.match(await server.fleetctl('jobs', 'cancel', job), /about to stop|cancelled/);
          await until('the end of the run', async () => (await server.call('GET', `/api/v1/runs/${id}`)).status === 'KILLED');
        }
      }
    },
  },
  {
    name: 'an order under way is cancelled once, and says how far it came',
    async run({ page, origin }) {
      const id = '01a2071b-0000-7000-8000-000000000008';
      const at = new Date().toISOString();
      const job = { id, kind: 'bulk-devices', subject: 'site:bench', state: 'running', progress: 0.4, message: '400 devices changed, 400 looked at', cancel_requested: false, created_at: at, updated_at: at };
      let answer = job;
      let asked = 0;
      await page.route(`**/api/v1/jobs/${id}`, (route) => route.fulfill({ json: answer }));
      await page.route(`**/api/v1/jobs/${id}/cancel`, refused);
      await page.goto(`${origin}/devices?job=${id}`);
      const cancel = page.getByRole('button', { name: 'Cancel', exact: true });
      await cancel.click();
      await page.getByText('The job could not be cancelled').waitFor();
      await page.unroute(`**/api/v1/jobs/${id}/cancel`);
      await page.route(`**/api/v1/jobs/${id}/cancel`, (route) => {
        asked += 1;
        answer = { ...job, cancel_requested: true };
        return route.fulfill({ status: 202, json: answer });
      });
      await cancel.click();
      await page.getByText('Being cancelled').waitFor();
      const cancelling = page.getByRole('button', { name: 'Cancelling' });
      await cancelling.and(page.locator('[aria-busy=true]')).press('Enter');
      assert.equal(await page.getByText('The job could not be cancelled').count(), 0);
      await page.reload();
      await cancelling.waitFor();
      assert.equal(asked, 1);
      answer = { ...job, state: 'cancelled', cancel_requested: true, progress: 0.5, message: 'cancelled; so far: 500 devices changed, 500 looked at' };
      await page.reload();
      await page.getByRole('heading', { name: 'The change was cancelled' }).waitFor();
      await page.getByText('so far: 500 devices changed').waitFor();
      await page.getByRole('button', { name: 'Dismiss' }).click();
      await page.waitForURL((url) => !url.searchParams.has('job'));
    },
  },
];
