// What a build of the console weighs, gzipped: for the budgets (sizes.mjs) and for the bench.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export const KB = 1000;

/** Bytes of the entry, of each route beyond it (`routes`, by file of its screen), of all scripts and of all styles. */
export async function measure(root) {
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
  async function sum(files) {
    let total = 0;
    for (const file of files) total += await size(file);
    return total;
  }
  const files = (keys) => [...keys].map((key) => manifest[key].file);
  const entry = closure(Object.keys(manifest).find((key) => manifest[key].isEntry));
  const routes = new Map();
  for (const key of Object.keys(manifest).filter((name) => /^src\/screens\/.*\.tsx?$/.test(name)))
    routes.set(key.replace('src/screens/', ''), await sum(files(closure(key, entry))));
  const all = new Set(Object.values(manifest).flatMap((chunk) => [...(chunk.css ?? []), chunk.file]));
  const ending = (end) => [...all].filter((file) => file.endsWith(end));
  return { entry: await sum(files(entry)), routes, scripts: await sum(ending('.js')), styles: await sum(ending('.css')) };
}
