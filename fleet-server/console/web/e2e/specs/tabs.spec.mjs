// Eight tabs of one browser, all live over one stream of events: more connections than HTTP/1.1 gives a page's server.
import assert from 'node:assert/strict';

const TABS = 8;

export const checks = [
  {
    name: 'eight tabs follow the fleet over one stream, and another one leads when the leader closes',
    async run({ page, context, origin, server }) {
      // The check's own page would lead: it is out of the way.
      await page.goto('about:blank');
      let streams = [];
      const tabs = [];
      for (let index = 0; index < TABS; index += 1) {
        const tab = await context.newPage();
        tab.on('request', (request) => {
          if (new URL(request.url()).pathname === '/api/v1/events') streams.push(tab);
        });
        await tab.goto(`${origin}/provisioning`);
        await tab.locator('.live .status.ok').waitFor();
        tabs.push(tab);
      }
      assert.equal(streams.length, 1, 'one stream for all tabs');
      const [leader] = streams;
      assert.equal(leader, tabs[0]);
      const all = async (those, uses) => {
        await server.call('POST', '/api/v1/claim-tokens', { uses, lifetime_s: 600, tags: {} });
        await Promise.all(those.map((tab) => tab.getByRole('row', { name: new RegExp(`0 of ${uses}`) }).waitFor()));
      };
      await all(tabs, 51);
      assert.equal(streams.length, 1);

      streams = [];
      await leader.close();
      const rest = tabs.slice(1);
      // What happens right now, while nobody reads, is not lost: the next one goes on after the last event that it knows.
      await all(rest, 52);
      assert.equal(new Set(streams).size, 1, 'one other tab leads');
      assert.ok(rest.includes(streams[0]));
      for (const tab of rest) await tab.locator('.live .status.ok').waitFor();
      await all(rest, 53);
      for (const tab of rest) await tab.close();
    },
  },
];
