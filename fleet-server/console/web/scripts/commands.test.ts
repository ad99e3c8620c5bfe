// Every command line that the console shows is one that fleetctl understands.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { expect, test } from 'vitest';
import { commandLines } from './command-lines';
import { commandOf, complaint, lineText } from './commands';
import type { Commands } from './commands';

const web = fileURLToPath(new URL('..', import.meta.url));
const commands = JSON.parse(readFileSync(new URL('../../../cli/commands.json', import.meta.url), 'utf8')) as Commands;

function program(): ts.Program {
  const { config } = ts.readConfigFile(`${web}tsconfig.json`, ts.sys.readFile) as { config: unknown };
  const { fileNames, options } = ts.parseJsonConfigFileContent(config, ts.sys, web);
  return ts.createProgram(fileNames, options);
}

const SMALL: Commands = {
  '': ['[--json]', '[--server <URL>]'],
  'labels lf add': ['<DATASET>', '<NAME>', '--when <WHEN>', '--label <LABEL>'],
  'devices tag': ['[DEVICE | NAME=VALUE]...', '[--yes]', '[-f, --filter <FILTER>]'],
  'drift list': ['[--drifted[=<true|false>]]', '[--order <severity|time>]'],
};

test('what fleetctl would refuse is seen', () => {
  const says = (line: string): string | undefined => complaint(line.split(' '), SMALL);
  expect(says('labels lf add motions still --when x --label y')).toBe(undefined);
  expect(says('labels lf add motions still --when x --label=y --json')).toBe(undefined);
  expect(says('labels lf add motions --when x --label y')).toBe('1 words where 2 are expected');
  expect(says('labels lf add motions still --label y')).toBe('--when is missing');
  expect(says('labels lf add motions still --when --label y')).toBe('--when needs a value');
  expect(says('labels lf make motions')).toBe('there is no such command');
  expect(says('labels lf')).toBe('there is no such command');
  expect(says('devices tag a=b c=d -f x --yes')).toBe(undefined);
  expect(says('devices tag a=b --everything')).toBe('there is no --everything');
  expect(says('devices tag a=b --yes=1')).toBe('--yes takes no value');
  expect(says('drift list --drifted')).toBe(undefined);
  expect(says('drift list --drifted=false --order severity')).toBe(undefined);
  expect(says('drift list --order worst')).toBe('--order cannot be worst');
  expect(says('drift list --order')).toBe('--order needs a value');
});

test('every command line of the console is one that fleetctl understands', { timeout: 60_000 }, () => {
  const { lines, mentions } = commandLines(program());
  expect(new Set(lines.map((line) => line.place)).size, 'places that show a command line').toBeGreaterThan(80);
  const wrong = lines.map(({ place, words }) => ({ place, line: lineText(words), says: complaint(words, commands) })).filter(({ says }) => says !== undefined);
  expect(wrong).toEqual([]);
  expect(mentions.filter(({ words }) => commandOf(words, commands) === undefined)).toEqual([]);
});
