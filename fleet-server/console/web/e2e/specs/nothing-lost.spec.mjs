// What a person means and types is kept: a narrowed list never becomes a wider target, an order to many devices says how it
// ended, two who edit the same tags do not undo each other, drafts survive, and addresses of dialogs lead to them.
import assert from 'node:assert/strict';
import { inState } from '../checks.mjs';
import { signedModel } from '../model.mjs';

const LINE = 'bench-kept';

export const checks = [
  {
    name: 'a rollout from a list goes no further than the list, and an earlier plan is said to be one',
    async run({ page, origin, server }) {
      await signedModel(server, LINE);
      await server.addAgent('kept-1');
      await server.addAgent('kept-2');
      await page.goto(`${origin}/devices?filter=status%3Aonline`);
      await page.getByRole('row', { name: /kept-2/ }).waitFor();
      await page.getByRole('link', { name: 'New rollout' }).click();
      await page.waitForURL(/\/rollouts\/new\?filter=/);
      await inState(page, 'full');
      const target = page.getByLabel('Target');
      assert.equal(await target.inputValue(), '');
      await page.getByText('No target says').waitFor();
      await page.getByRole('button', { name: 'Make the draft' }).click();
      await page.getByText('Write an expression; true selects every device.').waitFor();
      await page.goto(`${origin}/devices?filter=status%3Aonline`);
      await page.getByRole('row', { name: /kept-2/ }).getByRole('checkbox').click();
      await page.getByText('1 device selected').waitFor();
      await page.getByRole('link', { name: 'New rollout' }).click();
      await page.waitForURL(/\/rollouts\/new\?target=/);
      await inState(page, 'full');
      assert.equal(await target.inputValue(), 'device.id == "kept-2"');
      await page.getByLabel('Soak').fill('7');
      await page.goto(`${origin}/rollouts/new`);
      await page.getByText('This goes on from a plan that you began').waitFor();
      assert.equal(await page.getByLabel('Soak').inputValue(), '7');
      await page.getByRole('button', { name: 'Start afresh' }).click();
      assert.equal(await page.getByLabel('Soak').inputValue(), '60');
      assert.equal(await target.inputValue(), 'true');
    },
  },
  {
    name: 'a list to choose from shows what is chosen, opens as often as somebody wants to see it, and sends no form',
    async run({ page, origin }) {
      const made = [];
      page.on('request', (request) => {
        if (request.method() === 'POST' && new URL(request.url()).pathname === '/api/v1/rollouts') made.push(request.url());
      });
      await page.goto(`${origin}/rollouts/new`);
      await inState(page, 'full');
      const line = page.getByRole('combobox', { name: 'Model line' });
      const list = page.locator('[role=listbox]:popover-open');
      const closed = () => list.waitFor({ state: 'detached' });
      assert.equal(await line.inputValue(), LINE);
      await line.focus();
      assert.equal(await line.inputValue(), LINE, 'the focus takes nothing away');
      assert.equal(await line.getAttribute('aria-expanded'), 'false');
      await page.keyboard.press('ArrowDown');
      await list.waitFor();
      assert.equal(await line.getAttribute('aria-expanded'), 'true');
      assert.equal(await page.locator(`[id="${await line.getAttribute('aria-activedescendant')}"]`).getAttribute('aria-selected'), 'true');
      await page.keyboard.press('Enter');
      await closed();
      assert.equal(await line.inputValue(), LINE);
      await page.keyboard.press('Alt+ArrowDown');
      await list.waitFor();
      await page.keyboard.press('Enter');
      await closed();
      await line.click();
      await list.waitFor();
      await page.keyboard.type('no such line');
      await closed();
      assert.equal(await line.inputValue(), 'no such line', 'typing replaces what is chosen');
      await page.keyboard.press('Enter');
      assert.equal(await line.inputValue(), 'no such line');
      await page.keyboard.press('Escape');
      assert.equal(await line.inputValue(), LINE);
      assert.equal(new URL(page.url()).pathname, '/rollouts/new');
      assert.deepEqual(made, [], 'no draft was made');
    },
  },
  {
    name: 'an order to many devices says how it ended, after a reload too',
    async run({ page, origin, server }) {
      await page.goto(`${origin}/devices`);
      await page.getByRole('row', { name: /kept-1/ }).getByRole('checkbox').click();
      await page.getByRole('button', { name: 'Tag…' }).click();
      const dialog = page.getByRole('dialog');
      await dialog.getByLabel('Tags').fill('wave=3');
      await page.keyboard.press('Escape');
      await dialog.waitFor({ state: 'detached' });
      await page.getByRole('button', { name: 'Tag…' }).click();
      assert.equal(await dialog.getByLabel('Tags').inputValue(), 'wave=3', 'closing loses nothing');
      await dialog.getByRole('button', { name: 'Tag 1 device' }).click();
      await page.getByRole('heading', { name: 'The devices are changed' }).waitFor();
      await page.getByText('1 devices changed, 1 looked at').waitFor();
      await page.reload();
      await page.getByText('1 devices changed, 1 looked at').waitFor();
      assert.equal((await server.call('GET', '/api/v1/devices/kept-1')).tags.wave, '3');
      await page.getByRole('button', { name: 'Dismiss' }).click();
      await page.waitForURL((url) => !url.search.includes('job='));
    },
  },
  {
    name: 'two who edit the same device’s tags',
    async run({ page, origin, server }) {
      const change = (set) => server.call('PATCH', '/api/v1/devices/kept-1', { change: { set } });
      await page.goto(`${origin}/devices/kept-1`);
      await page.getByRole('button', { name: 'Edit tags' }).click();
      const dialog = page.getByRole('dialog');
      const lines = dialog.getByLabel('Tags');
      await lines.fill((await lines.inputValue()).replace('site=bench', 'site=oslo'));
      await change({ hall: 'A' });
      await dialog.getByRole('button', { name: 'Save the tags' }).click();
      await dialog.waitFor({ state: 'detached' });
      const { tags } = await server.call('GET', '/api/v1/devices/kept-1');
      assert.deepEqual([tags.site, tags.hall], ['oslo', 'A'], 'both stand');
      await page.getByRole('button', { name: 'Edit tags' }).click();
      await lines.fill((await lines.inputValue()).replace('site=oslo', 'site=rome'));
      await change({ site: 'bergen' });
      // By the live stream, before anything is sent.
      await dialog.getByText('Changed by somebody else since you began').waitFor();
      await dialog.getByRole('button', { name: 'Save the tags' }).click();
      await dialog.getByText("tag 'site' is 'bergen' by now: look again").waitFor();
      await dialog.getByRole('button', { name: 'Put mine over theirs' }).click();
      await dialog.getByRole('button', { name: 'Save the tags' }).click();
      await dialog.waitFor({ state: 'detached' });
      assert.equal((await server.call('GET', '/api/v1/devices/kept-1')).tags.site, 'rome');
    },
  },
  {
    name: 'an expression that is being written survives the dialog and a reload',
    async run({ page, origin }) {
      await page.goto(`${origin}/datasets/${LINE}/labeling?tab=functions`);
      await page.getByRole('button', { name: 'Add a function…' }).click();
      const dialog = page.getByRole('dialog');
      await dialog.getByLabel('When', { exact: true }).fill('f["a"] < 1.5');
      await page.reload();
      await page.getByRole('button', { name: 'Add a function…' }).click();
      assert.equal(await dialog.getByLabel('When', { exact: true }).inputValue(), 'f["a"] < 1.5');
      await dialog.getByRole('button', { name: 'Cancel' }).click();
      await page.goto(`${origin}/datasets/${LINE}?tab=versions&freeze=yes`);
      await dialog.getByLabel(/^Note/).fill('before the move');
      await page.reload();
      assert.equal(await dialog.getByLabel(/^Note/).inputValue(), 'before the move');
    },
  },
  {
    name: 'dialogs open by their address on whatever page their row stands, and a device leaves from provisioning',
    async run({ page, origin, server }) {
      const first = await server.call('POST', '/api/v1/claim-tokens', { uses: 3, lifetime_s: 3600, tags: {} });
      for (let count = 0; count < 100; count += 1) await server.call('POST', '/api/v1/claim-tokens', { uses: 1, lifetime_s: 3600, tags: {} });
      await page.goto(`${origin}/provisioning?token=${first.id}`);
      await page.getByRole('dialog', { name: 'Claim token' }).getByText('0 of 3 devices').waitFor();
      await page.goto(`${origin}/audit?entry=0`);
      await page.getByRole('dialog').getByRole('term').filter({ hasText: 'Actor' }).waitFor();
      await page.goto(`${origin}/provisioning`);
      await page.getByRole('button', { name: 'Decommission kept-2' }).click();
      const dialog = page.getByRole('dialog', { name: 'Decommission this device?' });
      await dialog.getByText('fleetctl devices decommission kept-2 --yes').waitFor();
      await dialog.getByRole('textbox').fill('kept-2');
      await page.keyboard.press('Enter');
      await dialog.waitFor({ state: 'detached' });
      await page.getByRole('row', { name: /kept-2.*Decommissioned/ }).waitFor();
      assert.equal((await server.call('GET', '/api/v1/devices/kept-2')).status, 'decommissioned');
    },
  },
];
