// Judgements in words: fields of the list's filter, addresses from before there was one, command lines. No markup, no server.
import type { Field } from '../../lib/filter';
import { hasTerm, termText, terms } from '../../lib/filter';
import { cli } from '../../lib/shell';
import type { DeviceDrift } from './data';

/** How the list is ordered unless somebody says otherwise: the furthest first. */
export const WORST = '-severity';

export const SHOW = ['all', 'drifted', 'calm'] as const;
export type Show = (typeof SHOW)[number];

/** Fields that take a few words and no others. */
export const CLOSED = { drifted: ['yes', 'no'] } as const;

const ANSWER: Record<Show, string | undefined> = { all: undefined, drifted: 'yes', calm: 'no' };

/** The filter of an address: links of other screens name a line, or what to show. */
export function filterOf({ filter, line, show }: { filter: string; line: string; show: Show }): string {
  const answer = ANSWER[show];
  const more = [...(line === '' ? [] : [{ field: 'line', value: line }]), ...(answer === undefined ? [] : [{ field: 'drifted', value: answer }])];
  return [...more.map((term) => termText({ negated: false, ...term })), filter].filter((part) => part !== '').join(' ');
}

/** Which of the three a filter shows. */
export function shownBy(filter: string): Show {
  return SHOW.find((show) => hasTerm(filter, 'drifted', ANSWER[show] ?? '')) ?? 'all';
}

/** The filter that shows another of the three; its other terms stay as they were written. */
export function showing(filter: string, show: Show): string {
  const answer = ANSWER[show];
  const rest = terms(filter).filter((term) => term.field !== 'drifted' || term.negated);
  return [...rest.map((term) => filter.slice(term.start, term.end)), ...(answer === undefined ? [] : [`drifted:${answer}`])].join(' ');
}

/** The line that a filter is about: the whole of it, and named once. */
export function lineOf(filter: string): string {
  const named = terms(filter).filter((term) => term.field === 'line' && !term.negated && !term.value.endsWith('*'));
  return named.length === 1 ? (named[0]?.value ?? '') : '';
}

/** Keys of the server's filter language; what the rows that are here say is worth suggesting. */
export function fieldsOf(rows: readonly DeviceDrift[]): readonly Field[] {
  const some = (pick: (row: DeviceDrift) => string): string[] => [...new Set(rows.map(pick))].filter((value) => value !== '').slice(0, 20);
  return [
    { name: 'drifted', help: 'yes or no', values: CLOSED.drifted },
    { name: 'severity', help: 'share of drifted features: severity:>0.5', values: ['>0.2', '>0.5', '>0.8'] },
    { name: 'line', help: 'model line', values: some((row) => row.line) },
    { name: 'version', help: 'version of the package', values: some((row) => row.semver) },
    { name: 'model', help: 'line, version or line@version' },
    { name: 'device', help: 'name; press-* for a beginning' },
    { name: 'slice', help: 'what the data is most like', values: some((row) => row.nearest_slice) },
    { name: 'alarms', help: 'judgements that were alarms: alarms:>0' },
    { name: 'manifest', help: 'digest of the package' },
  ];
}

/** The same list on the command line, which orders by device unless told otherwise. */
export function listLine(filter: string, sort: string): string {
  return cli('drift', 'list', ...(filter === '' ? [] : ['--filter', filter]), ...(sort === 'device' ? [] : [`--sort=${sort}`]));
}
