// The filter language of lists: `status:alert -model:2.0.0 site:"Oslo 1" NOT class:bench edge`. The server decides what
// matches; this file only splits the text into tokens, for highlighting, suggestions and adding or removing a term.

export interface Term {
  kind: 'term';
  negated: boolean;
  /** Absent: free text. */
  field?: string;
  value: string;
  /** Where it stands in the text, the sign included. */
  start: number;
  end: number;
}

export interface FilterProblem {
  kind: 'problem';
  message: string;
  start: number;
  end: number;
}

export interface Field {
  name: string;
  /** One short sentence, shown beside the suggestion. */
  help: string;
  /** Values worth suggesting; others are accepted. */
  values?: readonly string[];
}

export interface Suggestion {
  /** What the chosen suggestion puts in place of `[from, to)`. */
  insert: string;
  label: string;
  help?: string;
  from: number;
  to: number;
}

const FIELD = /^[A-Za-z][\w.-]*$/;

/** Reads one value from `at`: in double quotes (`\"` and `\\` inside) or up to white space. */
function readValue(text: string, at: number): { value: string; end: number; open: boolean } {
  if (text[at] !== '"') {
    let end = at;
    while (end < text.length && !/\s/.test(text[end] ?? ' ')) end += 1;
    return { value: text.slice(at, end), end, open: false };
  }
  let value = '';
  let index = at + 1;
  while (index < text.length) {
    const character = text[index] ?? '';
    if (character === '\\' && index + 1 < text.length) {
      value += text[index + 1] ?? '';
      index += 2;
    } else if (character === '"') {
      return { value, end: index + 1, open: false };
    } else {
      value += character;
      index += 1;
    }
  }
  return { value, end: text.length, open: true };
}

export function parseFilter(text: string): (Term | FilterProblem)[] {
  const tokens: (Term | FilterProblem)[] = [];
  let at = 0;
  let not: number | undefined;
  while (at < text.length) {
    if (/\s/.test(text[at] ?? '')) {
      at += 1;
      continue;
    }
    const start = not ?? at;
    const word = /^\S+/.exec(text.slice(at))?.[0] ?? '';
    if (word === 'NOT') {
      if (not !== undefined) tokens.push({ kind: 'problem', message: 'NOT stands twice', start: not, end: at + 3 });
      not = at;
      at += 3;
      continue;
    }
    let negated = not !== undefined;
    not = undefined;
    if (text[at] === '-' && at + 1 < text.length && !/\s/.test(text[at + 1] ?? ' ')) {
      negated = !negated;
      at += 1;
    }
    const colon = /^([^\s":]+):/.exec(text.slice(at));
    const field = colon?.[1];
    const known = field !== undefined && FIELD.test(field);
    if (known) at += field.length + 1;
    const { value, end, open } = readValue(text, at);
    at = Math.max(end, at + (known || end > at ? 0 : 1));
    if (open) tokens.push({ kind: 'problem', message: 'A quotation mark is not closed', start, end: at });
    else if (known && value === '') tokens.push({ kind: 'problem', message: `${field}: needs a value`, start, end: at });
    else tokens.push({ kind: 'term', negated, ...(known ? { field } : {}), value, start, end: at });
  }
  if (not !== undefined) tokens.push({ kind: 'problem', message: 'NOT needs a term after it', start: not, end: text.length });
  return tokens;
}

export function terms(text: string): Term[] {
  return parseFilter(text).filter((token) => token.kind === 'term');
}

/** Problems a person should see. What is still being typed at the very end (`status:`) is not one yet. */
export function problems(text: string): FilterProblem[] {
  return parseFilter(text).filter((token): token is FilterProblem => token.kind === 'problem' && token.end < text.length);
}

/**
 * What to send: the text without what is still being typed (`status:`), so that it does not make every list an error, and
 * with `-` for NOT. Values stay as they were written: quotes mean something to the server.
 */
export function settled(text: string): string {
  return terms(text)
    .map((term) => {
      const written = text.slice(term.start, term.end);
      if (!written.startsWith('NOT')) return written;
      const rest = written.slice(3).trimStart();
      return rest.startsWith('-') ? rest.slice(1) : `-${rest}`;
    })
    .join(' ');
}

export function quoteValue(value: string): string {
  return value !== '' && !/[\s"\\:]/.test(value) && !/^-|\*$/.test(value) && value !== 'NOT'
    ? value
    : `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}

export function termText(term: Pick<Term, 'negated' | 'field' | 'value'>): string {
  return `${term.negated ? '-' : ''}${term.field === undefined ? '' : `${term.field}:`}${quoteValue(term.value)}`;
}

/** The text with `field:value` in force: taken out when it was there, else put in place of that field's other terms. */
export function toggleTerm(text: string, field: string, value: string): string {
  const all = terms(text);
  const had = all.some((term) => term.field === field && !term.negated && term.value === value);
  const rest = all.filter((term) => term.field !== field || term.negated);
  return [...rest, ...(had ? [] : [{ negated: false, field, value }])].map(termText).join(' ');
}

export function hasTerm(text: string, field: string, value: string): boolean {
  return terms(text).some((term) => term.field === field && !term.negated && term.value === value);
}

/** Fields, then that field's values, for the word at the caret. */
export function suggest(text: string, caret: number, fields: readonly Field[], limit = 8): Suggestion[] {
  let from = caret;
  while (from > 0 && !/\s/.test(text[from - 1] ?? ' ')) from -= 1;
  let to = caret;
  while (to < text.length && !/\s/.test(text[to] ?? ' ')) to += 1;
  const word = text.slice(from, caret);
  const sign = word.startsWith('-') ? '-' : '';
  const body = word.slice(sign.length);
  const colon = body.indexOf(':');
  if (colon < 0) {
    const wanted = body.toLowerCase();
    return fields
      .filter((field) => field.name.toLowerCase().startsWith(wanted))
      .slice(0, limit)
      .map((field) => ({ insert: `${sign}${field.name}:`, label: `${sign}${field.name}:`, help: field.help, from, to }));
  }
  const field = fields.find((candidate) => candidate.name === body.slice(0, colon));
  const wanted = body.slice(colon + 1).replace(/^"/, '').toLowerCase();
  return (field?.values ?? [])
    .filter((value) => value.toLowerCase().startsWith(wanted) && value.toLowerCase() !== wanted)
    .slice(0, limit)
    .map((value) => ({
      insert: `${sign}${field?.name ?? ''}:${quoteValue(value)} `,
      label: `${sign}${field?.name ?? ''}:${quoteValue(value)}`,
      from,
      to,
    }));
}
