// What of a filter is worth asking for while somebody types in it.
import { settled, terms } from '../../lib/filter';

/** Fields that take these values and no others. */
export type Closed = Readonly<Record<string, readonly string[]>>;

/**
 * The text as the server is asked it, without a last word that nobody can mean yet: a comparison without its number
 * (`accuracy:>`), a state half written. The server would call it an error for as long as it is typed.
 */
export function askable(text: string, closed: Closed): string {
  const last = terms(text).at(-1);
  const typing = last?.field !== undefined && last.end === text.length && isBegun(last.value, closed[last.field]);
  return settled(typing ? text.slice(0, last.start) : text);
}

function isBegun(value: string, values: readonly string[] | undefined): boolean {
  if (/^(?:[<>]=?|=)-?$/.test(value)) return true;
  const low = value.toLowerCase();
  return values !== undefined && !values.includes(low) && values.some((one) => one.startsWith(low));
}
