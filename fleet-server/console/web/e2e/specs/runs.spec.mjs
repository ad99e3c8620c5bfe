// Runs: the list, starting one, watching it, comparing, cancelling; by mouse and by keys, in every state and both themes.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';
import { datasetVersion, finishedRun, startRun } from './runs.fixture.mjs';

const THEMES = ['light', 'dark'];
const LIST = '**/api/v1/runs?**';

const json = (status, body) => (route) =>
  route.fulfill({ status, contentType: status < 400 ? 'application/json' : 'application/problem+json', body: JSON.stringify(body) });
const refused = json(422, { type: 'about:blank', title: 'It broke', status: 422, detail: 'the disk is full' });

async function fits(page) {
  await page.setViewportSize({ width: 390, height: 844 });
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, `${page.url()} is wider than a phone`);
  await page.setViewportSize({ width: 1440, height: 900 });
}

export const checks = [
  {
    name: 'empty, loading and error, in both themes',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.route(LIST, json(200, { items: [] }));
        await page.goto(`${origin}/runs`);
        await accessible(page, 'empty', name);
        await page.getByText('There are no runs yet').waitFor();
        await page.unroute(LIST);
        await page.route(LIST, () => new Promise(() => undefined));
        await page.goto(`${origin}/runs`);
        await accessible(page, 'loading', name);
        await page.unroute(LIST);
        await page.route(LIST, refused);
        await page.goto(`${origin}/runs`);
        await accessible(page, 'error', name);
        await page.getByText('the disk is full').waitFor();
        await page.unroute(LIST);
        await page.goto(`${origin}/runs/01a2071b-0000-7000-8000-000000000000`);
        await accessible(page, 'error', name);
        await page.goto(`${origin}/runs/compare`);
        await accessible(page, 'empty', name);
        // What nobody can have encoded so is an id that is none.
        await page.goto(`${origin}/runs/compare?ids=%25`);
        await page.getByText('A run could not be loaded').waitFor();
        await accessible(page, 'error', name);
        await page.goto(`${origin}/runs?filter=acuracy%3A1%20`);
        // In the answer's detail, and as the place that it is about.
        await page.getByText("runs have no field 'acuracy'").first().waitFor();
      }
    },
  },
  {
    name: 'a run is started by keys, says what is wrong first, and is watched to its end',
    async run({ page, origin, server }) {
      const { dataset } = await datasetVersion(server);
      await theme(page, 'light');
      await page.goto(`${origin}/runs`);
      await inState(page, 'empty');
      await page.keyboard.press('n');
      await page.getByRole('heading', { name: 'New run' }).waitFor();
      await accessible(page, 'full', 'light');
      await page.getByLabel('Epochs').fill('many');
      await page.getByRole('button', { name: 'Start the run' }).focus();
      await page.keyboard.press('Enter');
      await page.getByText('choose what to train on').waitFor();
      await page.getByText('a whole number from 1').waitFor();
      assert.equal(await page.getByLabel('Epochs').inputValue(), 'many', 'what was typed stays');
      await page.getByLabel('Epochs').fill('40');
      await page.getByLabel('Experiment').fill('<b>foxes</b> 🦊 שלום');
      await page.reload();
      assert.equal(await page.getByLabel('Experiment').inputValue(), '<b>foxes</b> 🦊 שלום', 'a draft survives a reload');
      await page.getByLabel('Dataset', { exact: true }).selectOption({ label: dataset.name });
      await page.locator('select:has-text("60 train, 20 holdout")').selectOption({ index: 1 });
      await page.getByText(/fleetctl runs create .*--epochs 40/).waitFor();
      await page.getByRole('button', { name: 'Start the run' }).focus();
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: /<b>foxes<\/b> 🦊 שלום, seed 1/ }).waitFor();
      await page.getByText('Finished').first().waitFor();
      await page.getByRole('region', { name: 'Confusion matrix' }).waitFor();
      await page.getByRole('img', { name: /Train loss: first/ }).waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await shot(page, `run-${name}`);
      }
      await small(page);
      await fits(page);
    },
  },
  {
    name: 'the evaluation follows the split and another version, and the address holds it',
    async run({ page, origin, server }) {
      const run = await finishedRun(server, { seed: 3 });
      await page.goto(`${origin}/runs/${run.id}`);
      await page.getByText(/of 20 samples right/).waitFor();
      await page.getByRole('button', { name: 'Train', exact: true }).click();
      await page.getByText(/of 60 samples right/).waitFor();
      assert.match(page.url(), /split=train/);
      await page.getByRole('button', { name: 'Other version…' }).click();
      await page.getByRole('dialog').getByText(/fleetctl runs evaluate/).waitFor();
      await page.getByRole('dialog').getByRole('button', { name: 'Measure' }).click();
      await page.getByText(/of 20 samples right/).waitFor();
      // What was measured is listed, and one key goes back to it.
      const before = page.getByRole('region', { name: 'Evaluations' });
      await before.getByRole('row', { name: /train/ }).getByRole('button').press('Enter');
      await page.waitForURL(/split=train/);
      await page.getByText(/of 60 samples right/).waitFor();
      const { items } = await server.call('GET', `/api/v1/runs/${run.id}/evaluations`);
      assert.equal(await before.locator('tbody tr').count(), items.length);
      await page.getByText(`fleetctl runs evaluations ${run.id}`).waitFor();
    },
  },
  {
    name: 'full list: filter, sort, selection and comparison by keys',
    async run({ page, origin, server }) {
      const runs = [await finishedRun(server, { seed: 11 }), await finishedRun(server, { seed: 12, trainer: { hidden: [4, 4], epochs: 30 } })];
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/runs`);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `runs-${name}`);
      }
      await fits(page);
      await page.keyboard.press('/');
      await page.keyboard.type('experiment:clouds seed:>10 status:finished ');
      await page.getByText('2 matching').waitFor();
      // What the server is asked is what the command line says.
      await page.getByText("fleetctl runs list --filter 'experiment:clouds seed:>10 status:finished'", { exact: true }).waitFor();
      await page.getByRole('button', { name: /Holdout accuracy/ }).click();
      await page.waitForURL(/sort=accuracy/);
      // The answer to another question begins with nothing selected.
      await page.locator('[role=columnheader][aria-sort$=cending]').waitFor();
      await page.waitForSelector('[role=grid][aria-busy=false]');
      await page.getByRole('grid', { name: 'Runs' }).focus();
      await page.keyboard.press('Home');
      await page.keyboard.press('x');
      await page.keyboard.press('j');
      await page.keyboard.press('x');
      await page.getByText('2 runs selected').waitFor();
      await page.keyboard.press('c');
      await page.getByRole('heading', { name: 'Compare runs' }).waitFor();
      await page.getByRole('row', { name: /Hidden layers.*8.*4, 4|Hidden layers.*4, 4.*8/ }).waitFor();
      await page.getByRole('img', { name: /clouds, seed 11: first/ }).first().waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await shot(page, `compare-${name}`);
      }
      await fits(page);
      await page.getByLabel('Show what is alike').check();
      await page.getByRole('row', { name: /Trainer mlp mlp/ }).waitFor();
      await page.getByRole('button', { name: `Take clouds, seed ${runs[0].seed} out` }).click();
      await page.getByText('1 side by side').waitFor();
      await page.goBack();
      await page.getByText('2 side by side').waitFor();
    },
  },
  {
    name: 'the server filters, sorts and counts: states, datasets, figures, words and NOT',
    async run({ page, origin, server }) {
      const { dataset, version } = await datasetVersion(server);
      for (const filter of ['status:finished', `version:${version.id}`, `dataset:${dataset.name}@${version.number}`, '-accuracy:<0.5 clou', '-status:finished', 'holdout.ece:*']) {
        const { total } = await server.call('GET', `/api/v1/runs?limit=1&filter=${encodeURIComponent(filter)}`);
        await page.goto(`${origin}/runs?filter=${encodeURIComponent(filter)}`);
        await page.getByText(`${total} matching`, { exact: true }).waitFor();
      }
      const { items } = await server.call('GET', '/api/v1/runs?sort=-seed&limit=5');
      await page.goto(`${origin}/runs?sort=-seed`);
      await page.getByText('fleetctl runs list --sort=-seed', { exact: true }).waitFor();
      const names = page.locator('.tbody [role=row] .row-link');
      await names.first().waitFor();
      assert.deepEqual((await names.allTextContents()).slice(0, items.length), items.map((run) => `${run.experiment} seed ${run.seed}`));
      await page.goto(`${origin}/runs?filter=${encodeURIComponent('status:cancelled clou')}`);
      await page.getByText("fleetctl runs list --filter 'status:cancelled clou'", { exact: true }).first().waitFor();
      await inState(page, 'empty');
      await page.getByRole('button', { name: 'Clear the filter' }).press('Enter');
      await page.waitForURL((url) => !url.searchParams.has('filter'));
    },
  },
  {
    name: 'looking at runs asks for little and measures nothing; measuring begins when somebody wants it',
    async run({ page, origin, server }) {
      const { dataset } = await datasetVersion(server);
      const run = await finishedRun(server, { seed: 21 });
      await theme(page, 'light');
      const asked = [];
      page.on('request', (request) => {
        const { pathname } = new URL(request.url());
        if (pathname.startsWith('/api/v1/')) asked.push(`${request.method()} ${pathname}`);
      });
      await page.goto(`${origin}/runs`);
      await page.getByRole('row', { name: /seed 21/ }).waitFor();
      await page.getByRole('row', { name: new RegExp(`seed 21.*${dataset.name} v1`) }).waitFor();
      // Rows bring the names of what they were trained on along.
      assert.deepEqual(asked.filter((one) => /dataset|jobs/.test(one)), []);
      assert.ok(asked.filter((one) => one === 'GET /api/v1/runs').length <= 3, asked.join('\n'));
      const later = await server.call('POST', `/api/v1/datasets/${dataset.id}/versions`, { note: 'once more' });
      const address = `${origin}/runs/${run.id}?on=${later.id}`;
      await page.goto(address);
      await page.getByText('Nobody has measured it on this.').waitFor();
      await page.getByText(`fleetctl runs evaluate ${run.id} --dataset-version ${later.id}`, { exact: true }).waitFor();
      await accessible(page, 'full', 'light');
      assert.deepEqual(asked.filter((one) => one.startsWith('POST')), []);
      await page.getByRole('button', { name: 'Measure it now' }).press('Enter');
      await page.getByText(/of 20 samples right/).waitFor();
      assert.deepEqual(asked.filter((one) => one.startsWith('POST')), [`POST /api/v1/runs/${run.id}/evaluations`]);
      await page.goto(address);
      await page.getByText(/of 20 samples right/).waitFor();
    },
  },
  {
    name: 'a run that goes on is seen in the list and cancelled in its page',
    async run({ page, origin, server }) {
      const run = await startRun(server, { seed: 77, trainer: { hidden: [512, 512], epochs: 50_000 } });
      await page.goto(`${origin}/runs`);
      await page.getByRole('row', { name: /seed 77.*Running/ }).waitFor();
      await page.goto(`${origin}/runs/${run.id}`);
      await page.getByText(/^epoch \d+ of/).waitFor();
      await page.getByRole('img', { name: /Train loss: first/ }).waitFor();
      const before = await page.getByText(/^epoch \d+ of/).textContent();
      await page.waitForFunction((text) => !document.body.textContent.includes(text), before, { timeout: 30_000 });
      await accessible(page, 'full');
      await page.getByRole('button', { name: 'Cancel…' }).click();
      await page.getByRole('dialog').getByText(`fleetctl runs cancel ${run.id}`).waitFor();
      await page.getByRole('dialog').getByRole('button', { name: 'Cancel the run' }).click();
      await page.locator('.page-note').getByText('Cancelled').waitFor();
      await inState(page, 'full');
    },
  },
];
