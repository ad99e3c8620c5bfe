// The list of a large fleet: a key in the filter until the rows are on the screen, sorting, scrolling, and what the API takes
// of it and of a rollout's plan for all of it. Filters are those of the seeded fleet (tests/examples/seed.rs).
import { quantile } from '../timing.mjs';
import { figure, say, spread } from './figures.mjs';

/** By kind. Every one matches something. */
const FILTERS = {
  text: ['press', 'saw-00', 'lathe', 'oslo', 'mill-0', 'robot', 'bergen', 'press-00', 'cork', 'saw'],
  tag: ['site:oslo', 'site:bergen', 'site:lyon', 'hall:h3', 'site:graz', 'site:porto', 'hall:h7', 'site:gent', 'site:espoo', 'site:leeds'],
  model: ['model:1.0.0', 'model:1.4.2', 'model:2.0.0', 'model:2.1.0', 'model:vibration'],
  // Nobody of them is connected to the server that is measured: none is online.
  status: ['status:offline', 'status:updating', 'status:alert'],
};
const SORTS = ['Status', 'Model', 'Hardware', 'Inferences', 'Drift', 'Last seen'];

const at = (list, index) => list[index % list.length];
const api = (origin, query) => `${origin}/api/v1/devices?${new URLSearchParams({ offset: '0', limit: '100', sort: 'id', ...query })}`;

/** In the page: from the next event of this type until the list has asked, has its answer and has painted its rows. */
async function arm(page, type) {
  await page.evaluate((awaited) => {
    globalThis.measured = new Promise((resolve) => {
      addEventListener(
        awaited,
        (event) => {
          const grid = document.querySelector('[role=grid]');
          let asked = false;
          const observer = new MutationObserver(() => (asked = true));
          observer.observe(grid, { attributeFilter: ['aria-busy'] });
          const shown = () => asked && grid.getAttribute('aria-busy') === 'false' && document.querySelector('.tbody [role=row]') !== null && document.querySelector('.tbody .bone') === null;
          void globalThis.untilPainted(shown).then((painted) => {
            observer.disconnect();
            resolve(painted - event.timeStamp);
          });
        },
        { once: true, capture: true },
      );
    });
  }, type);
}

async function open(page, address) {
  await page.goto(address);
  await page.waitForFunction(() => {
    const table = document.querySelector('.table');
    return table !== null && table.dataset.state !== 'loading' && document.querySelector('[role=grid][aria-busy=false]') !== null && document.querySelector('.tbody .bone') === null;
  });
}

/** The last key of a filter. A page for each, so that no answer is known already. */
async function filters(page, origin, samples) {
  for (const [kind, list] of Object.entries(FILTERS)) {
    say(`${samples} keys in the filter: ${kind}`);
    const spent = [];
    for (let index = 0; index < samples; index += 1) {
      const filter = at(list, index);
      await open(page, `${origin}/devices?filter=${encodeURIComponent(filter.slice(0, -1))}`);
      const input = page.getByRole('combobox', { name: 'Filter devices' });
      await input.focus();
      await page.keyboard.press('End');
      await arm(page, 'keydown');
      await page.keyboard.press(filter.at(-1));
      spent.push(await page.evaluate(() => globalThis.measured));
    }
    spread(`filter_${kind}`, spent);
  }
}

async function sorts(page, origin, samples) {
  say(`${samples} sorts`);
  const spent = [];
  for (let index = 0; index < samples; index += 1) {
    await open(page, `${origin}/devices`);
    await arm(page, 'click');
    await page.getByRole('columnheader').getByRole('button', { name: at(SORTS, index) }).click();
    spent.push(await page.evaluate(() => globalThis.measured));
  }
  spread('sort', spent);
}

/** Turns the wheel so often, so far each time. Gives what frames took, and how much was in the document. */
async function wheel(page, turns, delta) {
  await page.evaluate(() => {
    const seen = { frames: [], rows: 0, nodes: 0, going: true };
    globalThis.scrolled = seen;
    let last = performance.now();
    const frame = (now) => {
      seen.frames.push(now - last);
      last = now;
      if (seen.frames.length % 8 === 0) {
        seen.rows = Math.max(seen.rows, document.querySelectorAll('.tbody [role=row]').length);
        seen.nodes = Math.max(seen.nodes, document.querySelectorAll('*').length);
      }
      if (seen.going) requestAnimationFrame(frame);
    };
    requestAnimationFrame((now) => {
      last = now;
      requestAnimationFrame(frame);
    });
  });
  for (let turn = 0; turn < turns; turn += 1) await page.mouse.wheel(0, delta);
  return page.evaluate(async () => {
    const began = performance.now();
    const rest = await globalThis.untilPainted(() => document.querySelector('.tbody .bone') === null);
    globalThis.scrolled.going = false;
    return { ...globalThis.scrolled, rest: rest - began, top: document.querySelector('[role=grid]').scrollTop };
  });
}

/** From the first row to the last; and as a person reads, a few rows at a time. */
async function scrolls(page, origin, passes) {
  for (const [name, turns, rowsEach] of [
    ['scroll_all', 200, undefined],
    ['scroll_reading', 100, 3],
  ]) {
    say(`${passes} times ${turns} turns of the wheel${rowsEach === undefined ? ', through all rows' : ''}`);
    const all = [];
    for (let pass = 0; pass < passes; pass += 1) {
      await open(page, `${origin}/devices`);
      const grid = page.getByRole('grid', { name: 'Devices' });
      await grid.hover();
      const { high, row } = await grid.evaluate((box) => ({ high: box.scrollHeight - box.clientHeight, row: document.querySelector('.tbody [role=row]').clientHeight }));
      const delta = Math.ceil(rowsEach === undefined ? high / turns : rowsEach * row);
      const went = await wheel(page, turns, delta);
      const wanted = Math.min(high, delta * turns);
      if (went.top < wanted * 0.98) throw new Error(`the wheel came to ${went.top} of ${wanted}`);
      all.push(went);
    }
    const frames = all.flatMap((pass) => pass.frames);
    figure(`${name}_frame_p95`, quantile(frames, 0.95), 'ms');
    figure(`${name}_frame_longest`, Math.max(...frames), 'ms');
    figure(`${name}_rest_longest`, Math.max(...all.map((pass) => pass.rest)), 'ms');
    figure(`${name}_rows`, Math.max(...all.map((pass) => pass.rows)), 'rows');
    figure(`${name}_nodes`, Math.max(...all.map((pass) => pass.nodes)), 'nodes');
  }
}

/** What the server takes, without a browser: one request after the other. */
async function requests(server, devices, samples) {
  const asks = {
    none: () => ({}),
    ...Object.fromEntries(Object.entries(FILTERS).map(([kind, list]) => [kind, (index) => ({ filter: at(list, index) })])),
    not: (index) => ({ filter: `${at(FILTERS.tag, index)} -class:pi-5 -hall:h1` }),
    sorted: (index) => ({ sort: at(['drift', '-drift', 'status', '-inferences', 'last_seen', 'class'], index) }),
    // Pages all over the list, as scrolling asks for them.
    page: (index) => ({ offset: String(Math.floor((devices * (index % 20)) / 20)) }),
  };
  const ask = async (address) => {
    const began = performance.now();
    const answer = await fetch(address, { headers: { authorization: `Bearer ${server.token}` } });
    const { items } = await answer.json();
    const spent = performance.now() - began;
    if (!answer.ok || items.length === 0) throw new Error(`${address}: ${answer.status}, ${items?.length} devices`);
    return spent;
  };
  for (const [kind, query] of Object.entries(asks)) {
    say(`${samples} requests: ${kind}`);
    const spent = [];
    for (let index = 0; index < samples; index += 1) spent.push(await ask(api(server.origin, query(index))));
    spread(`api_${kind}`, spent);
  }
}

/** What a rollout of the seeded version to the whole fleet would do. */
async function plans(server, devices, samples) {
  const model_version = '0192f0c1-0000-7000-8000-000000000104';
  say(`${samples} plans for ${devices} devices`);
  const spent = [];
  for (let index = 0; index < samples; index += 1) {
    const began = performance.now();
    const plan = await server.call('POST', '/api/v1/rollouts/preview', { model_version });
    spent.push(performance.now() - began);
    if (plan.selected !== devices) throw new Error(`the plan reaches ${plan.selected} of ${devices} devices`);
  }
  spread('api_plan', spent);
}

export async function list({ page, server, origin, devices, samples, wanted }) {
  if (wanted('api')) await requests(server, devices, samples * 5);
  if (wanted('plan')) await plans(server, devices, samples);
  if (wanted('filter')) await filters(page, origin, samples);
  if (wanted('sort')) await sorts(page, origin, samples);
  if (wanted('scroll')) await scrolls(page, origin, 3);
}
