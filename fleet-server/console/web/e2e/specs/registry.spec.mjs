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
          // The code of the screen loads too: what is meant is the table.
          await page.getByRole('grid').waitFor();
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
];
