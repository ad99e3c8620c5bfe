// The registry: a package of a run, signed offline and promoted; by mouse and by keys, in every state and both themes.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { accessible, shot, small, theme } from '../checks.mjs';
import { finishedRun } from './runs.fixture.mjs';

const THEMES = ['light', 'dark'];
const LINES = '**/api/v1/models?**';
const VERSIONS = '**/api/v1/models/*/versions?**';

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
        for (const [pattern, path, words] of [
          [LINES, '/models', 'The registry is empty'],
          [VERSIONS, '/models/%D7%A9%D7%9C%D7%95%D7%9D%20%3Cb%3E', 'This line has no versions yet'],
        ]) {
          await page.route(pattern, json(200, { items: [], total: 0 }));
          await page.goto(origin + path);
          await accessible(page, 'empty', name);
          await page.getByText(words).waitFor();
          await page.unroute(pattern);
          await page.route(pattern, () => new Promise(() => undefined));
          await page.goto(origin + path);
          await accessible(page, 'loading', name);
          await page.unroute(pattern);
          await page.route(pattern, refused);
          await page.goto(origin + path);
          await accessible(page, 'error', name);
          await page.getByText('the disk is full').waitFor();
          await page.unroute(pattern);
        }
        await page.goto(`${origin}/model-versions/01a2071b-0000-7000-8000-000000000000`);
        await accessible(page, 'error', name);
      }
    },
  },
  {
    name: 'a run becomes a package, is signed offline and promoted',
    async run({ page, origin, server }) {
      const run = await finishedRun(server, { seed: 5 });
      await theme(page, 'light');
      await page.goto(`${origin}/runs/${run.id}`);
      await page.getByRole('link', { name: 'Make a package' }).waitFor();
      await page.keyboard.press('p');
      await page.getByRole('heading', { name: 'New package' }).waitFor();
      await accessible(page, 'full', 'light');
      await page.getByLabel('Line', { exact: true }).fill('clouds');
      await page.getByLabel('Version', { exact: true }).fill('one');
      await page.getByRole('button', { name: 'Make the package' }).click();
      await page.getByText('a version such as 1.2.0 is needed').waitFor();
      await page.getByLabel('Version', { exact: true }).fill('1.0.0');
      await page.getByText(`fleetctl models package clouds --run ${run.id} --semver 1.0.0`).waitFor();
      await page.getByRole('button', { name: 'Make the package' }).focus();
      await page.keyboard.press('Enter');

      await page.getByRole('heading', { name: 'clouds 1.0.0' }).waitFor();
      await page.getByRole('heading', { name: 'Sign it offline' }).waitFor();
      assert.equal(await page.getByRole('link', { name: /^Promote/ }).count(), 0, 'what is not signed is not promoted');
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await shot(page, `model-version-unsigned-${name}`);
      }
      await fits(page);

      // The file that the browser saves is what `fleetctl sign` signs.
      const download = page.waitForEvent('download');
      await page.getByRole('button', { name: 'Download it here' }).click();
      const request = join(server.folder, 'clouds-1.0.0.json');
      const saved = await download;
      assert.equal(saved.suggestedFilename(), 'clouds-1.0.0.json');
      await saved.saveAs(request);
      await page.getByLabel('Signed file').setInputFiles(request);
      await page.getByText('This file holds no signature yet').waitFor();
      const junk = join(server.folder, 'junk.json');
      await writeFile(junk, 'not json');
      await page.getByLabel('Signed file').setInputFiles(junk);
      await page.getByText('This file is not JSON').waitFor();
      const signed = join(server.folder, 'clouds-1.0.0.signed.json');
      await server.fleetctl('sign', 'apply', request, '--key', join(server.folder, 'keys', 'release.key'), '-o', signed, '--yes');
      await page.getByLabel('Signed file').setInputFiles(signed);
      await page.locator('.page-note').getByText('Signed').waitFor();
      for (const name of THEMES) {
        await theme(page, name);
        await accessible(page, 'full', name);
        await shot(page, `model-version-${name}`);
      }
      await small(page);
      await page.getByRole('link', { name: /^Promote/ }).focus();
      await page.keyboard.press('Enter');
      await page.waitForURL(/\/rollouts\/new\?version=[0-9a-f-]{36}$/);
      await page.goBack();
      await page.getByRole('list', { name: 'Lineage' }).getByRole('link', { name: 'clouds, seed 5' }).click();
      await page.getByRole('heading', { name: 'clouds, seed 5' }).waitFor();
      await page.getByRole('link', { name: 'clouds 1.0.0' }).waitFor();
    },
  },
  {
    name: 'the server narrows and counts lines and versions, and the address holds the question',
    async run({ page, origin, server }) {
      const { total } = await server.call('GET', '/api/v1/models?signature=signed&text=clou');
      await page.goto(`${origin}/models`);
      await page.getByRole('row', { name: /clouds/ }).waitFor();
      await page.keyboard.press('/');
      await page.keyboard.type('signature:signed clou ');
      await page.getByText(`${total} matching`, { exact: true }).waitFor();
      await page.waitForURL((url) => url.searchParams.get('filter') === 'signature:signed clou ');
      await page.getByText('fleetctl models list --signature=signed --text=clou').first().waitFor();
      await page.goto(`${origin}/models/clouds?filter=signature%3Arevoked`);
      await page.getByText('No version of this line matches this filter.').waitFor();
      await page.getByText('fleetctl models versions clouds --signature=revoked').first().waitFor();
      await page.getByRole('button', { name: 'Clear the filter' }).press('Enter');
      await page.getByRole('row', { name: /1\.0\.0.*Signed/ }).waitFor();
      await page.goto(`${origin}/models?filter=size%3A3%20`);
      await page.getByText('not by “size”').waitFor();
    },
  },
  {
    name: 'lines and versions are opened by keys',
    async run({ page, origin }) {
      for (const name of THEMES) {
        await theme(page, name);
        await page.goto(`${origin}/models`);
        await accessible(page, 'full', name);
        await shot(page, `registry-${name}`);
        await page.goto(`${origin}/models/clouds`);
        await accessible(page, 'full', name);
        await small(page);
        await shot(page, `registry-line-${name}`);
      }
      await fits(page);
      await page.goto(`${origin}/models`);
      await page.getByRole('row', { name: /clouds/ }).waitFor();
      await page.getByRole('grid', { name: 'Model lines' }).focus();
      await page.keyboard.press('Home');
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: 'clouds', exact: true }).waitFor();
      await page.getByRole('row', { name: /1\.0\.0.*Signed/ }).waitFor();
      assert.equal(await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Registry' }).getAttribute('aria-current'), 'page');
      await page.keyboard.press('j');
      await page.keyboard.press('Home');
      await page.keyboard.press('Enter');
      await page.getByRole('heading', { name: 'clouds 1.0.0' }).waitFor();
      assert.equal(await page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Registry' }).getAttribute('aria-current'), 'page');
    },
  },
  {
    name: 'a line names the run and the data of each version without asking for each of them',
    async run({ page, origin, server }) {
      const [of] = (await server.call('GET', '/api/v1/models/clouds/versions?signature=signed')).items;
      for (const semver of ['1.1.0', '1.2.0', '1.3.0', '1.4.0']) await server.call('POST', '/api/v1/models/clouds/versions', { run: of.run, semver });
      const asked = [];
      page.on('request', (request) => {
        const { pathname } = new URL(request.url());
        if (pathname.startsWith('/api/v1/')) asked.push(`${request.method()} ${pathname}`);
      });
      await page.goto(`${origin}/models/clouds`);
      for (const semver of ['1.4.0', '1.0.0']) await page.getByRole('row', { name: new RegExp(`${semver.replaceAll('.', '\\.')}.*clouds seed 5.*clouds v1`) }).waitFor();
      // Who is signed in, what changes, and the list: whatever was asked for a row would have been by now.
      await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 500))));
      assert.ok(asked.length <= 5, asked.join('\n'));
      assert.deepEqual(asked.filter((path) => /v1\/(runs|datasets|dataset-versions)\b/.test(path)), []);
      await page.getByRole('row', { name: /1\.0\.0/ }).getByRole('link', { name: 'clouds v1' }).click();
      await page.waitForURL((url) => url.searchParams.get('version') === of.dataset_version);
    },
  },
  {
    name: 'what became of a run is one question, in the console and on the command line',
    async run({ page, origin, server }) {
      const [of] = (await server.call('GET', '/api/v1/models/clouds/versions?signature=signed')).items;
      const { items, total } = await server.call('GET', `/api/v1/model-versions?run=${of.run}&limit=2`);
      assert.ok(total >= items.length && items.every((version) => version.run === of.run));
      const asked = [];
      page.on('request', (request) => {
        const { pathname } = new URL(request.url());
        if (/\/api\/v1\/model/.test(pathname)) asked.push(pathname);
      });
      await page.goto(`${origin}/runs/${of.run}`);
      await page.getByRole('link', { name: 'clouds 1.0.0' }).waitFor();
      assert.deepEqual([...new Set(asked)], ['/api/v1/model-versions']);
      const told = await server.fleetctl('models', 'versions', '--run', of.run);
      assert.match(told, /clouds +1\.0\.0 +signed .*clouds, seed 5 +clouds v1/);
      const known = await server.fleetctl('models', 'versions', '--manifest', of.manifest);
      assert.match(known, /clouds +1\.0\.0/);
      assert.doesNotMatch(known, /1\.1\.0/);
      // Of the data too: its version names the run that learnt from it.
      await page.goto(`${origin}/datasets/clouds?tab=versions&version=${of.dataset_version}`);
      await page.getByRole('heading', { name: 'Where it went' }).waitFor();
      await page.getByText('seed 5').first().waitFor();
    },
  },
];
