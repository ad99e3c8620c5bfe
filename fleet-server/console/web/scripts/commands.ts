// fleetctl's commands as its own test writes them down (cli/commands.json): by words, what each takes, as its usage says it.
// `<ID>` must stand there, `[ID]` may, `...` is as often as wanted; options in square brackets may be left out; where only some
// values are possible, they stand in place of a name: `<train|holdout>`.
import { HOLE } from './command-lines';

export type Commands = Readonly<Record<string, readonly string[]>>;

interface Option {
  names: string[];
  required: boolean;
  value: 'none' | 'word' | 'optional';
  /** Absent: anything. */
  values?: string[];
}

interface Takes {
  options: Option[];
  least: number;
  most: number;
}

function takes(usages: readonly string[]): Takes {
  const found: Takes = { options: [], least: 0, most: 0 };
  for (const usage of usages) {
    if (/^\[?-/.test(usage)) {
      const text = usage.startsWith('[') ? usage.slice(1, -1) : usage;
      const names = [...text.matchAll(/(?:^|, )(--?[\w-]+)/g)].map((match) => match[1] ?? '');
      const values = /<([^<>| ]+(?:\|[^<>| ]+)+)>/.exec(text)?.[1]?.split('|');
      found.options.push({
        names,
        required: !usage.startsWith('['),
        value: !text.includes('<') ? 'none' : text.includes('[=') ? 'optional' : 'word',
        ...(values === undefined ? {} : { values }),
      });
    } else {
      found.least += usage.startsWith('<') ? 1 : 0;
      found.most += usage.endsWith('...') ? Infinity : 1;
    }
  }
  return found;
}

/** The command that these words begin with; the longest, as `labels lf add`. */
export function commandOf(words: readonly string[], commands: Commands): string | undefined {
  for (let length = words.length; length > 0; length -= 1) {
    const name = words.slice(0, length).join(' ');
    if (commands[name] !== undefined) return name;
  }
  return undefined;
}

/** What fleetctl would say against a line; nothing when it would understand it. */
export function complaint(words: readonly string[], commands: Commands): string | undefined {
  const name = commandOf(words, commands);
  if (name === undefined) return 'there is no such command';
  const { options, least, most } = takes(commands[name] ?? []);
  const known = [...options, ...takes(commands[''] ?? []).options];
  const given = new Set<Option>();
  const rest = words.slice(name.split(' ').length);
  let positional = 0;
  for (let at = 0; at < rest.length; at += 1) {
    const word = rest[at] ?? '';
    if (word === '--help') return undefined;
    if (!/^--?[a-z]/.test(word)) {
      positional += 1;
      continue;
    }
    const [flag = '', joined] = word.split(/=(.*)/s);
    const option = known.find((each) => each.names.includes(flag));
    if (option === undefined) return `there is no ${flag}`;
    given.add(option);
    if (option.value === 'none' && joined !== undefined) return `${flag} takes no value`;
    if (option.value === 'word' && joined === undefined) at += 1;
    const value = option.value === 'word' && joined === undefined ? rest[at] : joined;
    if (value === undefined || /^--[a-z]/.test(value)) {
      if (option.value === 'word') return `${flag} needs a value`;
    } else if (option.values !== undefined && !value.includes(HOLE) && !option.values.includes(value)) return `${flag} cannot be ${value}`;
  }
  const missing = options.find((option) => option.required && !given.has(option));
  if (missing !== undefined) return `${missing.names.at(-1)} is missing`;
  if (positional < least || positional > most) return `${positional} words where ${least === most ? least : `${least} to ${most}`} are expected`;
  return undefined;
}

/** As a person would read it. */
export function lineText(words: readonly string[]): string {
  return ['fleetctl', ...words].join(' ').replaceAll(HOLE, '…');
}
