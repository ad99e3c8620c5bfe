// First paint of screens, with what the browser keeps and without it; and how long until the screen shows what it is for.
import { withTiming } from '../timing.mjs';
import { say, spread } from './figures.mjs';

const SCREENS = [
  ['overview', '/'],
  ['devices', '/devices'],
];

/** Opens an address in a page of its own. Gives the first contentful paint and when the screen was full, from the start of the navigation. */
async function load(context, address, cold) {
  const page = await context.newPage();
  try {
    await withTiming(page);
    await page.addInitScript(() => {
      globalThis.full = globalThis.untilPainted(() => document.querySelector('#main [data-state="full"]') !== null && document.querySelector('#main .bone') === null);
    });
    if (cold) {
      const session = await context.newCDPSession(page);
      await session.send('Network.clearBrowserCache');
    }
    await page.goto(address);
    return await page.evaluate(async () => {
      const full = await globalThis.full;
      const paint = await new Promise((resolve) => {
        new PerformanceObserver((list) => {
          const found = list.getEntriesByName('first-contentful-paint')[0];
          if (found !== undefined) resolve(found.startTime);
        }).observe({ type: 'paint', buffered: true });
      });
      return { paint, full };
    });
  } finally {
    await page.close();
  }
}

export async function paint({ context, origin, samples }) {
  for (const [name, path] of SCREENS) {
    for (const cold of [true, false]) {
      const kind = cold ? 'cold' : 'warm';
      say(`${samples} loads of ${path}, ${kind} cache`);
      // The first load of a kind makes the cache what the others find it to be.
      await load(context, origin + path, cold);
      const loads = [];
      for (let count = 0; count < samples; count += 1) loads.push(await load(context, origin + path, cold));
      spread(`${name}_first_paint_${kind}`, loads.map((each) => each.paint));
      spread(`${name}_full_${kind}`, loads.map((each) => each.full));
    }
  }
}
