// States of screens that no other file comes across: what is empty, what loads and what fails, in both themes. The runner holds
// the table of all screens and states (e2e/coverage.mjs).
import { accessible, fits, shot, theme } from '../checks.mjs';
import { datasetVersion, finishedRun } from './runs.fixture.mjs';

const THEMES = ['light', 'dark'];
const NOBODY = '01a2071b-0000-7000-8000-000000000000';
const NEVER = () => new Promise(() => undefined);
const refused = (route) =>
  route.fulfill({ status: 422, contentType: 'application/problem+json', body: JSON.stringify({ type: 'about:blank', title: 'It broke', status: 422, detail: 'the disk is full' }) });

/** Opens an address whose requests are answered so, and looks at it in both themes. `part`: the state is that of a part of the screen. */
async function look(page, address, state, { routes = [], words, name, part = false }) {
  for (const [pattern, reply] of routes) await page.route(pattern, reply);
  for (const each of THEMES) {
    await theme(page, each);
    await page.goto(address);
    if (words !== undefined) await page.getByText(words).or(page.getByLabel(words)).first().waitFor();
    await accessible(page, state, each, { part });
    await fits(page);
    if (name !== undefined) await shot(page, `${name}-${each}`);
  }
  for (const [pattern] of routes) await page.unroute(pattern);
}

export const checks = [
  {
    name: 'a dataset with nothing in it, and one that loads',
    async run({ page, origin, server }) {
      await server.call('POST', '/api/v1/datasets', { name: 'bare', labels: ['a', 'b'], shape: { kind: 'row', columns: [] }, split: { kind: 'all', split: 'train' } });
      await look(page, `${origin}/datasets/bare`, 'empty', { words: 'There are no samples yet', name: 'dataset-empty' });
      await look(page, `${origin}/datasets/bare?tab=versions`, 'empty', { words: 'There is nothing to freeze yet' });
      await look(page, `${origin}/datasets/bare?tab=import`, 'empty', { words: 'No file has been imported yet' });
      await look(page, `${origin}/datasets/bare?tab=structure`, 'empty', {});
      await look(page, `${origin}/datasets/bare/labeling`, 'empty', { words: 'There are no samples yet' });
      await look(page, `${origin}/datasets/bare`, 'loading', { routes: [['**/api/v1/datasets/bare', NEVER]], words: 'Loading the dataset' });
      await look(page, `${origin}/datasets/bare/labeling?tab=functions`, 'loading', { routes: [['**/labeling-functions', NEVER]], words: 'Loading Labeling functions of bare' });
      await look(page, `${origin}/datasets/nowhere/labeling`, 'error', { words: 'The dataset could not be loaded' });
    },
  },
  {
    name: 'a rollout and a package without anything to make them of',
    async run({ page, origin }) {
      await look(page, `${origin}/rollouts/new`, 'empty', { words: 'There is no model yet', name: 'rollout-new-empty' });
      await look(page, `${origin}/model-versions/new`, 'empty', { words: 'No run has finished yet', name: 'package-empty' });
      await look(page, `${origin}/model-versions/new`, 'error', { routes: [['**/api/v1/runs?**', refused]], words: 'The runs could not be loaded', part: true });
    },
  },
  {
    name: 'forms of runs and packages, and what they are made of when it cannot be loaded',
    async run({ page, origin, server }) {
      await datasetVersion(server);
      const run = await finishedRun(server, { trainer: { epochs: 3 } });
      await look(page, `${origin}/runs/new`, 'full', { words: 'Start the run', name: 'run-new' });
      await look(page, `${origin}/runs/new?from=${NOBODY}`, 'error', { words: 'The run to start from could not be loaded', part: true });
      await look(page, `${origin}/runs/new`, 'full', { routes: [['**/api/v1/datasets?**', refused]], words: 'The datasets could not be loaded' });
      await look(page, `${origin}/model-versions/new?run=${run.id}`, 'full', { words: /fleetctl models package/, name: 'package-new' });
      await look(page, `${origin}/runs/${run.id}`, 'loading', { routes: [[`**/api/v1/runs/${run.id}`, NEVER]], words: 'Loading the run' });
      await look(page, `${origin}/runs/compare?ids=${run.id}`, 'loading', { routes: [[`**/api/v1/runs/${run.id}`, NEVER]], words: 'Loading runs' });
      await look(page, `${origin}/runs/compare?ids=${NOBODY}`, 'error', { words: 'A run could not be loaded' });
      await look(page, `${origin}/model-versions/${NOBODY}`, 'loading', { routes: [[`**/api/v1/model-versions/${NOBODY}`, NEVER]], words: 'Loading the model version' });
    },
  },
];
