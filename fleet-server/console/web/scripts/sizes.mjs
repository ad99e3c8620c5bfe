// Size budgets of the build in `dist` (or CONSOLE_OUT), gzipped. Fails when one is exceeded. Run `npm run build` first.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const KB = 1000;
const BUDGET = { entry: 70 * KB, route: 25 * KB, all: 250 * KB, css: 15 * KB };
const root = process.env.CONSOLE_OUT ?? 'dist';
const manifest = JSON.parse(await readFile(join(root, '.vite/manifest.json'), 'utf8'));

const sizes = new Map();
async function size(file) {
  if (!sizes.has(file)) sizes.set(file, gzipSync(await readFile(join(root, file)), { level: 9 }).length);
  return sizes.get(file);
}

/** A chunk and what it imports before it runs, without what `without` has loaded already. */
function closure(key, without = new Set(), seen = new Set()) {
  if (seen.has(key) || without.has(key)) return seen;
  seen.add(key);
  for (const next of manifest[key].imports ?? []) closure(next, without, seen);
  return seen;
}

async function sum(keys) {
  let total = 0;
  for (const key of keys) total += await size(manifest[key].file);
  return total;
}

const entryKey = Object.keys(manifest).find((key) => manifest[key].isEntry);
const entry = closure(entryKey);
const lines = [['entry', await sum(entry), BUDGET.entry]];
for (const key of Object.keys(manifest).filter((name) => /^src\/screens\/.*\.tsx?$/.test(name)))
  lines.push([`route ${key.replace('src/screens/', '')}`, await sum(closure(key, entry)), BUDGET.route]);
const files = new Set(Object.values(manifest).map((chunk) => chunk.file));
let all = 0;
for (const file of files) if (file.endsWith('.js')) all += await size(file);
lines.push(['all JS', all, BUDGET.all]);
let css = 0;
for (const file of new Set(Object.values(manifest).flatMap((chunk) => [...(chunk.css ?? []), chunk.file]))) if (file.endsWith('.css')) css += await size(file);
lines.push(['all CSS', css, BUDGET.css]);

let over = false;
for (const [name, bytes, budget] of lines) {
  const bad = bytes > budget;
  over ||= bad;
  console.log(`${bad ? 'OVER' : 'ok  '} ${String(name).padEnd(34)} ${(bytes / KB).toFixed(1).padStart(7)} KB gz of ${(budget / KB).toFixed(0)}`);
}
process.exit(over ? 1 : 0);
