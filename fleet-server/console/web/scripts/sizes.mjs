// Size budgets of the build in `dist` (or CONSOLE_OUT), gzipped. Fails when one is exceeded. Run `npm run build` first.
import { KB, measure } from './measure.mjs';

const BUDGET = { entry: 70 * KB, route: 25 * KB, all: 250 * KB, css: 15 * KB };
const { entry, routes, scripts, styles } = await measure(process.env.CONSOLE_OUT ?? 'dist');
const lines = [
  ['entry', entry, BUDGET.entry],
  ...[...routes].map(([name, bytes]) => [`route ${name}`, bytes, BUDGET.route]),
  ['all JS', scripts, BUDGET.all],
  ['all CSS', styles, BUDGET.css],
];

let over = false;
for (const [name, bytes, budget] of lines) {
  const bad = bytes > budget;
  over ||= bad;
  console.log(`${bad ? 'OVER' : 'ok  '} ${String(name).padEnd(34)} ${(bytes / KB).toFixed(1).padStart(7)} KB gz of ${(budget / KB).toFixed(0)}`);
}
process.exit(over ? 1 : 0);
