// Tags as people write them: one `name=value` per line, values with spaces in them.

export interface ParsedTags {
  tags: Record<string, string>;
  wrong?: string;
}

export function parseTagLines(text: string): ParsedTags {
  const tags: Record<string, string> = {};
  for (const line of text.split('\n').map((part) => part.trim()).filter((part) => part !== '')) {
    const at = line.indexOf('=');
    const name = (at < 0 ? line : line.slice(0, at)).trim();
    if (name === '') return { tags, wrong: `“${line}” has no name: write name=value.` };
    if (at < 0) return { tags, wrong: `“${line}” has no value: write ${name}=value.` };
    if (Object.hasOwn(tags, name)) return { tags, wrong: `${name} stands twice.` };
    tags[name] = line.slice(at + 1).trim();
  }
  return { tags };
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
