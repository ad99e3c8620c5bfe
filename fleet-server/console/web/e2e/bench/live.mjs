// From a change that somebody else makes until it is on the screen: through the API, the event stream and the page.
import { setTimeout as pause } from 'node:timers/promises';
import { say, spread } from './figures.mjs';

/** Longer than the console waits between two answers to the same question. */
const APART_MS = 2500;

/** Each makes a change that nothing else makes, and gives a text that only this change brings onto the screen. */
const CHANGES = {
  device_tag: {
    path: (device) => `/devices/${device}`,
    text: (index) => `bench-${index}`,
    make: (server, device, index) => server.call('PATCH', `/api/v1/devices/${device}`, { tags: { bench: `bench-${index}` } }),
  },
  list_tag: {
    path: (device) => `/devices?filter=${encodeURIComponent(`id:${device}`)}`,
    text: (index) => `bench-row-${index}`,
    make: (server, device, index) => server.call('PATCH', `/api/v1/devices/${device}`, { tags: { bench: `bench-row-${index}` } }),
  },
  claim_token: {
    path: () => '/provisioning',
    text: (index) => `0 of ${1000 + index}`.replace(/(\d)(\d{3})$/, '$1,$2'),
    make: (server, _device, index) => server.call('POST', '/api/v1/claim-tokens', { uses: 1000 + index, lifetime_s: 600, tags: {} }),
    apart: true,
  },
  // One after the other without a pause: the console asks for a list again every two seconds at most.
  claim_token_burst: {
    path: () => '/provisioning',
    text: (index) => `0 of ${2000 + index}`.replace(/(\d)(\d{3})$/, '$1,$2'),
    make: (server, _device, index) => server.call('POST', '/api/v1/claim-tokens', { uses: 2000 + index, lifetime_s: 600, tags: {} }),
  },
};

export async function live({ page, server, origin, samples }) {
  const [device] = (await server.call('GET', '/api/v1/devices?limit=1&sort=id')).items;
  for (const [name, change] of Object.entries(CHANGES)) {
    const count = Math.max(20, samples);
    say(`${count} changes seen: ${name}`);
    await page.goto(origin + change.path(device.id));
    await page.locator('.live .status.ok').waitFor();
    await page.waitForFunction(() => document.querySelector('#main [data-state="full"]') !== null && document.querySelector('#main .bone') === null);
    const spent = [];
    for (let index = 0; index < count; index += 1) {
      await page.evaluate((text) => {
        const main = document.querySelector('#main');
        globalThis.measured = new Promise((resolve) => {
          const look = () => {
            if (!main.textContent.includes(text)) return;
            observer.disconnect();
            void globalThis.untilPainted(() => true).then(() => resolve(Date.now()));
          };
          const observer = new MutationObserver(look);
          observer.observe(main, { subtree: true, childList: true, characterData: true });
          look();
        });
      }, change.text(index));
      if (change.apart === true) await pause(APART_MS);
      // One clock: the page and this program run on the same machine.
      const began = Date.now();
      await change.make(server, device.id, index);
      spent.push((await page.evaluate(() => globalThis.measured)) - began);
    }
    spread(`event_to_pixel_${name}`, spent);
  }
}
