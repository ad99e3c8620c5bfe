// Tags as people write them: one `name=value` per line, values with spaces in them.

export interface ParsedTags {
  tags: Record<string, string>;
  wrong?: string;
}

function linesOf(text: string): string[] {
  return text.split('\n').map((part) => part.trim()).filter((part) => part !== '');
}

export function parseTagLines(text: string): ParsedTags {
  const tags: Record<string, string> = {};
  for (const line of linesOf(text)) {
    const at = line.indexOf('=');
    const name = (at < 0 ? line : line.slice(0, at)).trim();
    if (name === '') return { tags, wrong: `“${line}” has no name: write name=value.` };
    if (at < 0) return { tags, wrong: `“${line}” has no value: write ${name}=value.` };
    if (Object.hasOwn(tags, name)) return { tags, wrong: `${name} stands twice.` };
    tags[name] = line.slice(at + 1).trim();
  }
  return { tags };
}

export interface ParsedTagChange {
  set: Record<string, string>;
  remove: string[];
  wrong?: string;
}

/** Of devices whose tags differ, only what changes is written: as above, and `-name` in a line of its own removes that tag. */
export function parseTagChange(text: string): ParsedTagChange {
  const removes = (line: string): boolean => line.length > 1 && line.startsWith('-') && !line.includes('=');
  const lines = linesOf(text);
  const remove = lines.filter(removes).map((line) => line.slice(1).trim());
  const { tags: set, wrong } = parseTagLines(lines.filter((line) => !removes(line)).join('\n'));
  if (wrong !== undefined) return { set, remove, wrong };
  if (lines.length === 0) return { set, remove, wrong: 'Write at least one tag.' };
  const twice = remove.find((name, at) => remove.indexOf(name) !== at || Object.hasOwn(set, name));
  return { set, remove, ...(twice === undefined ? {} : { wrong: `${twice} stands twice.` }) };
}

export function printTagLines(tags: Readonly<Record<string, string>>): string {
  return Object.entries(tags)
    .map(([name, value]) => `${name}=${value}`)
    .join('\n');
}

/** As words of a command line. */
export function tagWords(tags: Readonly<Record<string, string>>): string[] {
  return Object.entries(tags).map(([name, value]) => `${name}=${value}`);
}
