// How it is shown: 200 % zoom, reduced motion, and charts on canvas after the theme was switched.
import assert from 'node:assert/strict';
import { fits, inState, shot } from '../checks.mjs';
import { until } from '../server.mjs';
import { finishedRun } from './runs.fixture.mjs';

const made = { run: undefined };
const screens = (run) => ['/', '/devices', '/provisioning', '/labeling', '/datasets', '/datasets/new', '/datasets/clouds', '/datasets/clouds/labeling', '/datasets/clouds?tab=versions', '/runs', '/runs/new', `/runs/${run}`, '/runs/compare', '/models', '/model-versions/new', '/rollouts', '/rollouts/new', '/drift', '/audit', '/sessions'];

async function ready(server) {
  made.run ??= (await finishedRun(server)).id;
  return made.run;
}

/** A token's colour in force, as numbers. */
const colour = (page, token) =>
  page.evaluate((name) => {
    const probe = document.createElement('i');
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
    probe.remove();
    return [red, green, blue];
  }, token);

/** How many pixels of the first chart have (about) this colour. */
const painted = (page, wanted) =>
  page.evaluate(([red, green, blue]) => {
    const canvas = document.querySelector('.u-wrap canvas');
    if (canvas === null) return 0;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 200 && Math.abs(data[at] - red) + Math.abs(data[at + 1] - green) + Math.abs(data[at + 2] - blue) < 12) found += 1;
    }
    return found;
  }, wanted);

export const checks = [
  {
    name: 'at 200 % zoom nothing is wider than the window, and everything is still reached',
    async run({ page, origin, server }) {
      const run = await ready(server);
      // What a window of 1440 × 900 leaves at that zoom.
      await page.setViewportSize({ width: 720, height: 450 });
      for (const path of screens(run)) {
        await page.goto(origin + path);
        await page.getByRole('heading', { level: 1 }).waitFor();
        await page.locator('#main [data-state=full], #main [data-state=empty], #main [data-state=form]').first().waitFor();
        await fits(page);
      }
      await page.goto(`${origin}/runs/${run}`);
      await inState(page, 'full');
      await page.getByRole('link', { name: 'Make a package' }).click();
      await page.getByRole('heading', { name: 'New package' }).waitFor();
      await page.getByRole('button', { name: 'Make the package' }).scrollIntoViewIfNeeded();
      await shot(page, 'package-zoomed');
      // A dialog that is higher than the window scrolls inside: its buttons are reached.
      await page.goto(`${origin}/provisioning?new=1`);
      const send = page.getByRole('dialog').getByRole('button', { name: 'Make the token' });
      await send.scrollIntoViewIfNeeded();
      const box = await send.boundingBox();
      assert.ok(box.y >= 0 && box.y + box.height <= 450, 'the button is inside the window');
    },
  },
  {
    name: 'with reduced motion nothing moves',
    async run({ page, origin, server }) {
      await ready(server);
      const moving = () => page.evaluate(() => document.getAnimations().map((animation) => animation.animationName ?? animation.transitionProperty ?? 'unnamed'));
      const look = async () => {
        await page.route('**/api/v1/runs?**', () => new Promise(() => undefined));
        await page.goto(`${origin}/runs`);
        // The table's bones, which breathe otherwise; those that stand there while the screen's code loads go at any moment.
        await page.locator('.table-bones .bone').first().waitFor();
        const bones = await moving();
        await page.unroute('**/api/v1/runs?**');
        await page.keyboard.press('Control+k');
        await page.getByRole('combobox', { name: 'Search or jump to' }).waitFor();
        return bones;
      };
      await page.emulateMedia({ reducedMotion: 'no-preference' });
      assert.ok((await look()).length > 0, 'this check sees what moves');
      await page.emulateMedia({ reducedMotion: 'reduce' });
      assert.deepEqual(await look(), []);
      assert.deepEqual(await moving(), []);
    },
  },
  {
    name: 'charts have the colours of the theme in force, after a switch by button and by the system',
    async run({ page, origin, server }) {
      const run = await ready(server);
      await page.emulateMedia({ colorScheme: 'light' });
      await page.goto(`${origin}/runs/${run}`);
      const light = await colour(page, '--c1');
      const drawn = (wanted) => until(`a line in ${wanted}`, async () => (await painted(page, wanted)) > 20);
      await drawn(light);
      const inTheme = async (switchTo) => {
        await switchTo();
        const now = await colour(page, '--c1');
        assert.notDeepEqual(now, light);
        await drawn(now);
        assert.ok((await painted(page, light)) < 5, 'nothing has kept the old colour');
      };
      await inTheme(() => page.getByRole('button', { name: 'Switch to dark' }).click());
      await shot(page, 'run-switched-to-dark');
      await page.getByRole('button', { name: /^Account/ }).click();
      await page.getByRole('menuitemradio', { name: 'System theme' }).click();
      await drawn(light);
      await inTheme(() => page.emulateMedia({ colorScheme: 'dark' }));
    },
  },
];
