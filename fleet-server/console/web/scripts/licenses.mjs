// The licences of what the build contains, as one text file beside it: they want to travel with the binary.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const SHIPPED = [
  'preact',
  '@tanstack/preact-query',
  '@tanstack/query-core',
  'openapi-fetch',
  'uplot',
  'uqr',
  '@fontsource-variable/inter',
];

const parts = [];
for (const name of SHIPPED) {
  const { version } = JSON.parse(await readFile(`node_modules/${name}/package.json`, 'utf8'));
  parts.push(`${name} ${version}\n\n${(await readFile(`node_modules/${name}/LICENSE`, 'utf8')).trim()}\n`);
}
await writeFile(join(process.env.CONSOLE_OUT ?? 'dist', 'licenses.txt'), parts.join(`\n${'-'.repeat(80)}\n\n`));
