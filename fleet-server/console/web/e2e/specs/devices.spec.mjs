// The device list: with real agents, by mouse and by keys, in every state and both themes.
import assert from 'node:assert/strict';
import { accessible, inState, shot, small, theme } from '../checks.mjs';

const THEMES = ['light', 'dark'];

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
];
