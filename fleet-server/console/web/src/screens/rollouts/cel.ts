// A rollout's target is a CEL expression over what a device is; the device list has a filter language. What both can say is
// carried from one into the other: a filtered list becomes a target, and a target leads to the devices that it selects.
// Anything else is left to the server, which alone decides what an expression means.
import { parseFilter, quoteValue } from '../../lib/filter';

/** Names in a filter, and the field of `device` that they are about. */
const FIELDS: Readonly<Record<string, string>> = { id: 'id', arch: 'arch', class: 'hardware_class', agent: 'agent_version' };
const NAMES = Object.fromEntries(Object.entries(FIELDS).map(([name, field]) => [field, name]));
/** About how a device is at this moment: nothing that a plan could be made of. */
const MOMENTARY = new Set(['status', 'model', 'drift']);

function literal(value: string): string {
  return JSON.stringify(value);
}

/**
 * The expression that selects what the filter's terms select, and the terms that no expression can say. While there are such
 * terms the expression selects more than the filter shows: it is no target by itself.
 */
export function filterToCel(filter: string): { cel: string; left: string[] } {
  const left: string[] = [];
  const parts: string[] = [];
  for (const term of parseFilter(filter)) {
    const written = filter.slice(term.start, term.end);
    if (term.kind === 'problem') {
      left.push(written);
      continue;
    }
    const { field } = term;
    if (field === undefined || MOMENTARY.has(field)) {
      left.push(written);
      continue;
    }
    const known = FIELDS[field];
    const what = known === undefined ? `device.tags[${literal(field)}]` : `device.${known}`;
    const has = `${literal(field)} in device.tags`;
    const beginning = term.value.endsWith('*') && !written.endsWith('"') ? term.value.slice(0, -1) : undefined;
    // A device without the tag is not selected by an expression about it, but "not this value" is true of it.
    const lacks = (condition: string): string => (known === undefined ? `(!(${has}) || ${condition})` : condition);
    if (beginning === '') {
      if (known !== undefined) parts.push(term.negated ? 'false' : 'true');
      else parts.push(term.negated ? `!(${has})` : has);
    } else if (beginning !== undefined) {
      const starts = `${what}.startsWith(${literal(beginning)})`;
      parts.push(term.negated ? lacks(`!${starts}`) : starts);
    } else parts.push(term.negated ? lacks(`${what} != ${literal(term.value)}`) : `${what} == ${literal(term.value)}`);
  }
  const said = parts.filter((part) => part !== 'true');
  return { cel: said.length === 0 ? 'true' : said.join(' && '), left };
}

/** The target to begin with: what the filter shows, or nothing. A list that was narrowed never becomes a wider target. */
export function targetOf(filter: string): string {
  const { cel, left } = filterToCel(filter);
  return left.length === 0 ? cel : '';
}

/** The server takes no longer expression, and none of more parts; a list has two of them for each name. */
const MOST_CHARACTERS = 2000;
const MOST_NAMES = 180;

/** The expression that selects these devices and no others; `undefined`: they are too many for one. */
export function namesToCel(ids: Iterable<string>): string | undefined {
  const names = [...ids].sort();
  const cel = names.length === 1 ? `device.id == ${literal(names[0] ?? '')}` : `device.id in [${names.map(literal).join(', ')}]`;
  return names.length === 0 || names.length > MOST_NAMES || cel.length > MOST_CHARACTERS ? undefined : cel;
}

type Node =
  | { kind: 'const'; value: boolean }
  | { kind: 'is'; key: string; tag: boolean; value: string; starts: boolean }
  | { kind: 'has'; key: string }
  | { kind: 'not'; of: Node }
  | { kind: 'and' | 'or'; of: Node[] };

const TOKEN = /\s*(?:(&&|\|\||==|!=|[!()[\].,])|([A-Za-z_]\w*)|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))/y;

class Unsaid extends Error {}

class Reader {
  private readonly tokens: string[] = [];
  private at = 0;

  constructor(text: string) {
    TOKEN.lastIndex = 0;
    const end = text.trimEnd().length;
    while (TOKEN.lastIndex < end) {
      const match = TOKEN.exec(text);
      if (match === null) throw new Unsaid();
      this.tokens.push(match[0].trim());
    }
  }

  private peek(): string {
    return this.tokens[this.at] ?? '';
  }

  private take(expected?: string): string {
    const token = this.peek();
    if (token === '' || (expected !== undefined && token !== expected)) throw new Unsaid();
    this.at += 1;
    return token;
  }

  whole(): Node {
    const node = this.or();
    if (this.at !== this.tokens.length) throw new Unsaid();
    return node;
  }

  private or(): Node {
    const of = [this.and()];
    while (this.peek() === '||') {
      this.take();
      of.push(this.and());
    }
    return of.length === 1 && of[0] !== undefined ? of[0] : { kind: 'or', of };
  }

  private and(): Node {
    const of = [this.unary()];
    while (this.peek() === '&&') {
      this.take();
      of.push(this.unary());
    }
    return of.length === 1 && of[0] !== undefined ? of[0] : { kind: 'and', of };
  }

  private unary(): Node {
    if (this.peek() === '!') {
      this.take();
      return { kind: 'not', of: this.unary() };
    }
    if (this.peek() === '(') {
      this.take();
      const inside = this.or();
      this.take(')');
      return inside;
    }
    if (this.peek() === 'true' || this.peek() === 'false') return { kind: 'const', value: this.take() === 'true' };
    if (/^["']/.test(this.peek())) {
      const key = this.text();
      this.take('in');
      this.take('device');
      this.take('.');
      this.take('tags');
      return { kind: 'has', key };
    }
    return this.comparison();
  }

  private comparison(): Node {
    this.take('device');
    this.take('.');
    const field = this.take();
    const tag = field === 'tags';
    const key = tag ? this.tagName() : field;
    if (!tag && NAMES[key] === undefined) throw new Unsaid();
    if (this.peek() === '.') {
      this.take();
      this.take('startsWith');
      this.take('(');
      const value = this.text();
      this.take(')');
      return { kind: 'is', key, tag, value, starts: true };
    }
    const sign = this.take();
    if (sign !== '==' && sign !== '!=') throw new Unsaid();
    const is: Node = { kind: 'is', key, tag, value: this.text(), starts: false };
    return sign === '==' ? is : { kind: 'not', of: is };
  }

  private tagName(): string {
    if (this.peek() === '.') {
      this.take();
      return this.take();
    }
    this.take('[');
    const name = this.text();
    this.take(']');
    return name;
  }

  private text(): string {
    const token = this.take();
    const quote = token[0];
    if (quote !== '"' && quote !== "'") throw new Unsaid();
    const inside = token.slice(1, -1);
    // Other escapes mean characters that nobody has in a tag; they are not guessed at.
    if (/\\[^"'\\]/.test(inside)) throw new Unsaid();
    return inside.replace(/\\(["'\\])/g, '$1');
  }
}

function key(node: { key: string; tag: boolean }): string {
  if (!node.tag) return NAMES[node.key] ?? node.key;
  const plain = /^[A-Za-z][\w.-]*$/.test(node.key) && FIELDS[node.key] === undefined && !MOMENTARY.has(node.key);
  return plain ? node.key : `"${node.key.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}

function printed(node: { key: string; tag: boolean; value: string; starts: boolean }): string {
  if (!node.starts) return `${key(node)}:${quoteValue(node.value)}`;
  // A beginning cannot stand in quotes.
  if (/[\s"]/.test(node.value)) throw new Unsaid();
  return `${key(node)}:${node.value}*`;
}

function has(name: string): string {
  return `${key({ key: name, tag: true })}:*`;
}

function filterOf(node: Node): string[] {
  switch (node.kind) {
    case 'const':
      if (node.value) return [];
      throw new Unsaid();
    case 'is':
      return [printed(node)];
    case 'has':
      return [has(node.key)];
    case 'and':
      return node.of.flatMap(filterOf);
    case 'or': {
      // The one "or" that a filter can say: without the tag, or with another value.
      const [lacks, other] = node.of;
      if (node.of.length === 2 && lacks?.kind === 'not' && lacks.of.kind === 'has' && other?.kind === 'not' && other.of.kind === 'is' && other.of.tag && other.of.key === lacks.of.key)
        return [`-${printed(other.of)}`];
      throw new Unsaid();
    }
    case 'not': {
      const inside = node.of;
      if (inside.kind === 'not') return filterOf(inside.of);
      if (inside.kind === 'has') return [`-${has(inside.key)}`];
      if (inside.kind === 'const' && !inside.value) return [];
      if (inside.kind !== 'is') throw new Unsaid();
      return inside.tag ? [has(inside.key), `-${printed(inside)}`] : [`-${printed(inside)}`];
    }
  }
}

/** The device filter that shows what the expression selects; `undefined` when no filter says it. */
export function celToFilter(cel: string): string | undefined {
  try {
    return filterOf(new Reader(cel).whole()).join(' ');
  } catch (error) {
    if (error instanceof Unsaid) return undefined;
    throw error;
  }
}
