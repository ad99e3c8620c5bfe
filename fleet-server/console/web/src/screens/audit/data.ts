// What the audit screen asks of the server.
import { keepPreviousData, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import type { Field } from '../../lib/filter';
import { quoteValue, terms } from '../../lib/filter';
import { parseTime, shortDigest, withTimes } from '../../lib/format';

export type AuditEvent = Schema<'AuditEvent'>;
export type Verification = Schema<'AuditVerification'>;
export type DeviceChain = Schema<'DeviceChainVerification'>;

const RESOURCE = 'audit';
/** Entries of one page. */
const PAGE = 100;

/** Names of events worth suggesting; any other is asked for as it is written. */
const EVENTS = [
  'agent.started', 'attack.refused', 'attack.reported', 'claim-token.created', 'claim-token.revoked', 'dataset.annotated', 'dataset.created', 'dataset.frozen', 'dataset.imported',
  'deployment.failure', 'device.audit-gap', 'device.certificate-renewed', 'device.decommissioned', 'device.enrolled', 'device.tagged', 'devices.bulk-requested', 'enrolment.refused', 'fleet.created',
  'label-model.fitted', 'labeling-function.created', 'model.activated', 'model.committed', 'model.packaged', 'model.rolled-back', 'model.signed', 'rollout.completed', 'rollout.created', 'rollout.halted',
  'rollout.phase-passed', 'run.created', 'run.evaluated', 'run.finished', 'session.closed', 'session.opened', 'session.refused', 'sign-in-link.created', 'signature.refused',
] as const;

const DAY_MS = 86_400_000;

/** `2026-11-23`, in the reader's time zone, so many days before `now`. */
function day(now: number, before: number): string {
  const at = new Date(now - before * DAY_MS);
  return `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, '0')}-${String(at.getDate()).padStart(2, '0')}`;
}

export function fieldsOf(now: number): readonly Field[] {
  const days = [day(now, 0), day(now, 1), day(now, 7), day(now, 30)];
  return [
    { name: 'event', help: 'what happened; rollout.* for a beginning', values: EVENTS },
    { name: 'actor', help: 'who did it: token:admin, device:press-07, reconciler:*', values: ['token:*', 'session:*', 'device:*', 'reconciler:*'] },
    { name: 'subject', help: 'what it was done to: rollout:ID, device:press-07', values: ['device:*', 'rollout:*', 'run:*', 'dataset:*', 'model-version:*', 'claim-token:*', 'session:*'] },
    { name: 'from', help: 'then or later: a day, or a time as RFC 3339 writes it', values: days },
    { name: 'to', help: 'before that day or time', values: days },
    { name: 'device', help: 'a device’s own chain instead of the server’s log' },
  ];
}

const NAMES = ['event', 'actor', 'subject', 'from', 'to', 'device'] as const;
export type Name = (typeof NAMES)[number];

export type AuditQuestion = { [K in Name]?: string };

/** A day begins at midnight where the reader is; a time is as it is written. */
function momentOf(value: string): string | undefined {
  const at = parseTime(/^\d{4}-\d{2}-\d{2}$/.test(value) ? `${value}T00:00:00` : /^\d{4}-\d{2}-\d{2}T\d/.test(value) ? value : undefined);
  return at === undefined ? undefined : new Date(at).toISOString();
}

/** The filter as the server can answer it, or what it cannot. */
export function questionOf(filter: string): { question: AuditQuestion; wrong?: string } {
  const question: AuditQuestion = {};
  for (const term of terms(filter)) {
    if (term.negated) return { question, wrong: 'The audit log knows no NOT: ask for what happened, by whom, to what or when.' };
    const name = NAMES.find((each) => each === term.field);
    if (name === undefined) return { question, wrong: `The audit log is filtered by ${NAMES.map((each) => `${each}:`).join(' ')} alone, not by “${term.field ?? term.value}”.` };
    if (question[name] !== undefined) return { question, wrong: `${name}: stands twice; the audit log answers one at a time.` };
    const value = name === 'from' || name === 'to' ? momentOf(term.value) : term.value;
    if (value === undefined) return { question, wrong: `${name}: needs a day such as 2026-11-23, or a time such as 2026-11-23T02:00:00Z.` };
    question[name] = value;
  }
  return { question };
}

/** The filter term by term, as they are written, each with what is left without it. */
export function removable(filter: string): { text: string; without: string }[] {
  const all = terms(filter).map((term) => filter.slice(term.start, term.end));
  return all.map((text, at) => ({ text, without: all.filter((_term, index) => index !== at).join(' ') }));
}

/** The filter with this field asked for this, in place of what it was asked for before. */
export function withTerm(filter: string, field: Name, value: string): string {
  const others = terms(filter).filter((term) => term.field !== field);
  const word = /^[^\s"\\]+$/.test(value) ? value : quoteValue(value);
  return [...others.map((term) => filter.slice(term.start, term.end)), `${field}:${word}`].join(' ');
}

export function questionWords(question: AuditQuestion): string[] {
  return NAMES.flatMap((name) => (question[name] === undefined ? [] : [`--${name}`, question[name]]));
}

export function useAudit(question: AuditQuestion, cursor: string, enabled: boolean) {
  return useQuery({
    queryKey: [RESOURCE, 'list', question, cursor],
    queryFn: ({ signal }) =>
      unwrap(api.GET('/api/v1/audit', { params: { query: { ...question, limit: PAGE, ...(cursor === '' ? {} : { cursor }) } }, signal })),
    enabled,
    placeholderData: keepPreviousData,
  });
}

/**
 * One entry of the server's log, whatever page it stands on: the first below the next number. Entries of devices' own chains
 * begin anew with every epoch, so that a number alone does not name one.
 */
export function useEntry(index: number, enabled: boolean) {
  return useQuery({
    enabled,
    queryKey: [RESOURCE, 'entry', index],
    queryFn: async ({ signal }): Promise<AuditEvent | null> => {
      const { items } = await unwrap(api.GET('/api/v1/audit', { params: { query: { limit: 1, cursor: String(index + 1) } }, signal }));
      return items.find((entry) => entry.index === index) ?? null;
    },
    // An entry never changes.
    staleTime: Infinity,
  });
}

/** Recomputing every chain is work: it happens when somebody asks, never because something changed. */
export function useVerification() {
  return useQuery({
    queryKey: ['audit-verification'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/audit/verify', { signal })),
    enabled: false,
    retry: false,
    gcTime: Infinity,
  });
}

export interface Verdict {
  ok: boolean;
  entries: number;
  /** Chains that do not hold, the server's first; of many, the first hundred or so. */
  broken: { chain: string; device?: string; problem: string }[];
  /** How many there are in all. */
  brokenCount: number;
  devices: number;
}

export function verdictOf(verification: Verification): Verdict {
  const broken: Verdict['broken'] = [];
  if (!verification.server.ok) broken.push({ chain: 'The server’s log', problem: verification.server.problem ?? 'it does not hold' });
  const brokenCount = broken.length + verification.broken_devices;
  for (const device of verification.broken) broken.push({ chain: device.device, device: device.device, problem: device.chain.problem ?? 'it does not hold' });
  return { ok: verification.ok && brokenCount === 0, entries: verification.server.entries + verification.device_entries, broken, brokenCount, devices: verification.devices };
}

/** Ids by their end, which is what tells those of one minute apart; digests by their beginning; times as everywhere. The whole is one click away. */
export function shortened(value: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value)) return `…${value.slice(-12)}`;
  return /^sha256:[0-9a-f]{64}$/.test(value) ? shortDigest(value) : withTimes(value);
}
