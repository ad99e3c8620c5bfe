// Text that others chose, wherever the API lets it in: it is shown as it is, carries nothing out, widens nothing and turns
// nothing around.
import assert from 'node:assert/strict';
import { inState, shot, theme } from '../checks.mjs';
import { infer, signedModel } from '../model.mjs';
import { until } from '../server.mjs';
import { everywhere, harmless, sensible, settled, visible } from '../texts.mjs';

const HTML = `<img src=x onerror="globalThis.marked=1"><script>globalThis.marked=2</script><b onclick='alert(1)'>&lt;</b>`;
const RTL = 'مصنع الصلب (قاعة 7)';
const MIXED = 'exe.gnp שלום 7';
/** Turns around all that follows it. The API refuses it in names; in an address anything may stand. */
const OVERRIDE = '\u202egnp.exe\u2066 שלום';
const EMOJI = '🏭👩🏽‍🔧🇳🇴 Z͑ͫ̓a̴l̶g̸o';
const LONG = 'Donaudampfschifffahrtselektrizitätenhauptbetriebswerk'.repeat(4);
const URL_TEXT = 'javascript:globalThis.marked=3';
const ALL = { HTML, RTL, MIXED, EMOJI, LONG, URL_TEXT };

const LINE = 'foreign';
const DEVICE = 'foreign-1';
/** The API takes a hundred characters at most of most names. */
const short = (text) => text.slice(0, 100).trim();
const tagOf = (text) => ({ [text.slice(0, 200)]: text });
const made = {};

async function ready(server) {
  if (made.version !== undefined) return made;
  const labels = [short(RTL), short(HTML)];
  const columns = [HTML, RTL, MIXED, EMOJI].map(short);
  made.version = await signedModel(server, LINE, { labels, columns, experiment: short(MIXED) });
  const path = `/api/v1/datasets/${LINE}`;
  await server.call('POST', `${path}/versions`, { note: `${HTML} ${MIXED}` });
  await server.call('POST', `${path}/versions`, { note: LONG });
  for (const text of Object.values(ALL)) await server.call('POST', `${path}/labeling-functions`, { name: short(text), when: `f[${JSON.stringify(columns[0])}] < 1.5`, label: labels[0] });
  const { job } = await server.call('POST', `${path}/label-model`, {});
  await until('the label model', async () => (await server.call('GET', `/api/v1/jobs/${job}?wait_ms=2000`)).state === 'succeeded');
  await server.addAgent(DEVICE, { hardware: HTML, tags: Object.assign({}, ...Object.values(ALL).map(tagOf)) });
  await server.addAgent('foreign-2', { hardware: MIXED, tags: { site: RTL } });
  await server.addAgent('foreign-3', { hardware: short(LONG), tags: { site: LONG } });
  for (const text of Object.values(ALL)) await server.call('POST', '/api/v1/claim-tokens', { uses: 3, lifetime_s: 600, tags: tagOf(text) });
  const rollout = await server.call('POST', '/api/v1/rollouts', { model_version: made.version, target: `device.tags["site"] == ${JSON.stringify(RTL)} || device.id == "${DEVICE}"`, soak_s: 0 });
  await server.call('POST', `/api/v1/rollouts/${rollout.id}/start`);
  await until('the rollout', async () => (await server.call('GET', `/api/v1/rollouts/${rollout.id}`)).state === 'completed', 120);
  made.rollout = rollout.id;
  const samples = Array.from({ length: 64 }, (_unused, row) => [0, 1, 2, 3].map((column) => 40 + Math.sin(row * 4 + column) * 3));
  await until('the judgement', async () => {
    await infer(server, DEVICE, samples, [4]);
    return (await server.call('GET', '/api/v1/drift')).items.some((judged) => judged.drifted);
  });
  made.manifest = (await server.call('GET', `/api/v1/model-versions/${made.version}`)).manifest;
  made.runs = (await server.call('GET', '/api/v1/runs')).items.map((run) => run.id);
  return made;
}

function screens({ version, rollout, manifest, runs }) {
  const filter = (text) => encodeURIComponent(`site:"${text.replaceAll('"', '\\"')}"`);
  return [
    ['/'],
    ['/devices', HTML, RTL, MIXED, EMOJI, LONG],
    [`/devices?filter=${filter(RTL)}`, RTL],
    [`/devices?filter=${filter(HTML)}`],
    [`/devices?filter=${encodeURIComponent(OVERRIDE + LONG)}`],
    [`/devices/${DEVICE}`, HTML, RTL, MIXED, EMOJI, LONG],
    ['/devices/foreign-2', RTL, MIXED],
    [`/devices/${encodeURIComponent(HTML)}`],
    ['/provisioning', HTML, RTL, MIXED, EMOJI, LONG],
    ['/datasets'],
    [`/datasets/${LINE}`, short(RTL), short(HTML)],
    [`/datasets/${LINE}?tab=structure`, short(RTL), short(HTML), short(MIXED)],
    [`/datasets/${LINE}?tab=versions`, MIXED],
    [`/datasets/${LINE}?tab=import`],
    ['/labeling'],
    [`/datasets/${LINE}/labeling`, short(RTL), short(HTML)],
    [`/datasets/${LINE}/labeling?tab=functions`, ...Object.values(ALL).map(short)],
    ['/runs', short(MIXED)],
    [`/runs?experiment=${encodeURIComponent(short(MIXED))}`],
    [`/runs/${runs[0]}`, short(MIXED)],
    [`/runs/${runs[0]}?tab=evaluation`],
    [`/runs/compare?ids=${runs.join(',')}`, short(MIXED)],
    [`/runs/new?from=${runs[0]}`],
    ['/models'],
    [`/models/${LINE}`],
    [`/models/${encodeURIComponent(HTML)}`],
    [`/model-versions/${version}`],
    [`/model-versions/new?run=${runs[0]}`],
    ['/rollouts'],
    [`/rollouts/${rollout}`, RTL],
    [`/rollouts/new?filter=${filter(RTL)}`],
    [`/rollouts/new?target=${encodeURIComponent(`device.tags[${JSON.stringify(OVERRIDE)}] == "x"`)}`],
    ['/drift'],
    [`/drift/${DEVICE}/${encodeURIComponent(manifest)}`, short(RTL), short(HTML)],
    [`/drift/${encodeURIComponent(OVERRIDE)}/${encodeURIComponent(HTML)}`],
    ['/audit'],
    [`/audit?filter=${encodeURIComponent(`event:"${HTML.replaceAll('"', '\\"')}"`)}`],
    ['/sessions'],
    [`/nowhere/${encodeURIComponent(HTML)}`],
  ];
}

/** What asks in a box of the browser's own is noted, and sent away. */
function watchDialogs(page) {
  const dialogs = [];
  page.on('dialog', (dialog) => {
    dialogs.push(dialog.message());
    void dialog.dismiss();
  });
  return dialogs;
}

export const checks = [
  {
    name: 'on every screen, wide and narrow: text stays text',
    async run({ page, origin, server }) {
      const dialogs = watchDialogs(page);
      const found = await ready(server);
      await theme(page, 'light');
      for (const width of [1440, 390]) {
        await page.setViewportSize({ width, height: 900 });
        await everywhere(screens(found), async ([path, ...texts]) => {
          await page.goto(origin + path);
          await settled(page);
          if (width > 390) {
            const said = (await visible(page)).join('\n');
            for (const text of texts) assert.ok(said.includes(text), `${path} shows ${JSON.stringify(text)} as it is`);
          }
          await harmless(page, dialogs);
          await sensible(page);
        });
        await page.goto(`${origin}/devices/${DEVICE}`);
        await settled(page);
        await shot(page, `foreign-device-${width}`);
      }
    },
  },
  {
    name: 'in dialogs, menus and the palette as well',
    async run({ page, origin, server }) {
      const dialogs = watchDialogs(page);
      await ready(server);
      await page.goto(`${origin}/devices/${DEVICE}`);
      await inState(page, 'full');
      await page.keyboard.press('t');
      const tags = page.getByRole('dialog', { name: 'Tags' });
      await tags.getByRole('textbox').waitFor();
      await harmless(page, dialogs);
      await page.keyboard.press('Escape');
      await page.goto(`${origin}/datasets/${LINE}/labeling?tab=functions`);
      await inState(page, 'full');
      await page.getByRole('button', { name: /^Remove / }).first().click();
      await page.getByRole('dialog').waitFor();
      await harmless(page, dialogs);
      await page.keyboard.press('Escape');
      await page.getByRole('dialog').waitFor({ state: 'detached' });
      await page.keyboard.press('c');
      await page.getByRole('dialog').getByRole('combobox', { name: /Insert a feature/ }).click();
      await page.locator('[role=listbox]:popover-open [role=option]').first().waitFor();
      await harmless(page, dialogs);
      await page.goto(`${origin}/devices`);
      await inState(page, 'full');
      await page.keyboard.press('Control+k');
      await page.getByRole('dialog').waitFor();
      await page.keyboard.type(HTML);
      await harmless(page, dialogs);
      await page.keyboard.press('Control+a');
      await page.keyboard.type('foreign');
      await page.getByRole('option', { name: /foreign-1/ }).waitFor();
      await harmless(page, dialogs);
    },
  },
  {
    name: 'in a file’s name, and in what the server says against it',
    async run({ page, origin, server }) {
      const dialogs = watchDialogs(page);
      await ready(server);
      await page.goto(`${origin}/datasets/${LINE}?tab=import`);
      await page.setInputFiles('input[type=file]', { name: `${RTL} ${short(HTML).replaceAll('/', '')}.csv`, mimeType: 'text/csv', buffer: Buffer.from(`${HTML},x\n${MIXED},2\n`) });
      await page.getByRole('button', { name: 'Import', exact: true }).waitFor();
      await harmless(page, dialogs);
      await page.getByRole('button', { name: 'Import', exact: true }).click();
      await page.locator('[role=alert]').first().waitFor();
      await harmless(page, dialogs);
      await shot(page, 'foreign-file');
    },
  },
];
