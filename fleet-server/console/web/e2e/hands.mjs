// Two ways to use the console, with the same words: a mouse, and the keyboard alone.
import assert from 'node:assert/strict';

/** The command line of an action, with its button that copies it. Gives the line. */
export async function command(scope, pattern) {
  const line = scope.locator('.cli').filter({ hasText: pattern }).first();
  await line.waitFor();
  assert.equal(await line.getByRole('button', { name: 'Copy the command' }).count(), 1, `${pattern} can be copied`);
  return (await line.locator('code').textContent()).trim();
}

/** Copies the command line of an action and looks at the clipboard. */
export async function copied(page, hands, scope, pattern) {
  const line = await command(scope, pattern);
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await hands.press(scope.locator('.cli').filter({ hasText: pattern }).first().getByRole('button', { name: 'Copy the command' }));
  await scope.locator('.cli').filter({ hasText: pattern }).first().getByRole('button', { name: 'Copied' }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), line);
}

export function mouse(page) {
  return {
    press: (target) => target.click(),
    async fill(target, text) {
      await target.click();
      await page.keyboard.press('Control+a');
      await page.keyboard.type(text);
    },
    go: (entry) => page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: entry.name, exact: true }).click(),
    open: (grid, row) => grid.getByRole('row', { name: row }).click(),
    label: (name) => page.getByRole('group', { name: 'Labels' }).getByRole('button', { name }).click(),
  };
}

/** Tabs that are enough for any page: beyond, the target cannot be reached. */
const MOST_TABS = 200;

async function tabTo(page, target) {
  await target.waitFor();
  for (let tabs = 0; tabs < MOST_TABS; tabs += 1) {
    if (await target.evaluate((element) => element === document.activeElement)) return;
    await page.keyboard.press('Tab');
  }
  assert.fail(`${target} is not reached by Tab`);
}

export function keys(page) {
  return {
    async press(target) {
      await tabTo(page, target);
      await page.keyboard.press('Enter');
    },
    async fill(target, text) {
      await tabTo(page, target);
      await page.keyboard.press('Control+a');
      await page.keyboard.type(text);
    },
    async go(entry) {
      await page.keyboard.press('g');
      await page.keyboard.press(entry.key);
    },
    async open(grid, row) {
      await tabTo(page, grid);
      await grid.getByRole('row', { name: row }).waitFor();
      await page.keyboard.press('Home');
      for (let steps = 0; steps < MOST_TABS; steps += 1) {
        const at = await grid.getAttribute('aria-activedescendant');
        if (at !== null && row.test((await page.locator(`[id="${at}"]`).innerText()).replaceAll('\n', ' '))) {
          await page.keyboard.press('Enter');
          return;
        }
        await page.keyboard.press('ArrowDown');
      }
      assert.fail(`no row ${row} is reached by the arrows`);
    },
    async label(name) {
      const key = await page.getByRole('group', { name: 'Labels' }).getByRole('button', { name }).getAttribute('aria-keyshortcuts');
      await page.keyboard.press(key);
    },
  };
}
