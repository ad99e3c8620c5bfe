// The lock names no host: it installs from whatever registry npm is set to, a mirror as well. Nothing but this check keeps it so,
// one `npm install` with another setting writes a host into every entry.
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const read = (name: string): string => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');

/** Every text in it that leads to a host, with its place. Where a package's author takes money is no source. */
function hosts(value: unknown, place = ''): string[] {
  if (typeof value === 'string') return /^(?:[a-z+]+:)?\/\/|^git@|^[\w-]+\/[\w.-]+(?:#.*)?$/i.test(value) ? [`${place}: ${value}`] : [];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, each]) => (key === 'funding' || key === 'license' || key === 'bin' ? [] : key === 'resolved' ? [`${place}/resolved: ${String(each)}`] : hosts(each, `${place}/${key}`)));
}

test('a host in a lock is seen', () => {
  const one = { integrity: 'sha512-Aup7/aUOfpbAUg2ROOJN6Iw5f9DMBlzu0mIkm==', version: '1.0.0', funding: { url: 'https://github.com/sponsors/a' } };
  expect(hosts({ packages: { a: one } })).toEqual([]);
  expect(hosts({ packages: { a: { ...one, resolved: 'https://registry.npmjs.org/a/-/a-1.0.0.tgz' } } })).toEqual(['/packages/a/resolved: https://registry.npmjs.org/a/-/a-1.0.0.tgz']);
  expect(hosts({ packages: { a: { ...one, version: 'git+ssh://git@github.com/a/a.git#1' } } })).toHaveLength(1);
  expect(hosts({ dependencies: { a: 'https://example.org/a.tgz' } })).toHaveLength(1);
  expect(hosts({ dependencies: { a: 'somebody/a#main' } })).toHaveLength(1);
});

test('the lock names no host, nor does what npm is told here', () => {
  const lock = JSON.parse(read('package-lock.json')) as { packages: Record<string, unknown> };
  expect(Object.keys(lock.packages).length, 'packages').toBeGreaterThan(50);
  expect(hosts(lock)).toEqual([]);
  expect(hosts(JSON.parse(read('package.json')))).toEqual([]);
  const settings = read('.npmrc');
  expect(settings).toMatch(/^omit-lockfile-registry-resolved=true$/m);
  expect(settings).not.toMatch(/registry=|:\/\//);
});
