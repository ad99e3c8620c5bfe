// What the audit screen asks of the server.
import { keepPreviousData, useQuery } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';
import type { Field } from '../../lib/filter';
import { terms } from '../../lib/filter';
import { shortDigest, withTimes } from '../../lib/format';

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

export const FIELDS: readonly Field[] = [
  { name: 'event', help: 'what happened, by its whole name', values: EVENTS },
  { name: 'device', help: 'a device’s own chain instead of the server’s log' },
];

export interface AuditQuestion {
  event?: string;
  device?: string;
}

/** The filter as the server can answer it, or what it cannot. */
export function questionOf(filter: string): { question: AuditQuestion; wrong?: string } {
  const question: AuditQuestion = {};
  for (const term of terms(filter)) {
    if (term.negated) return { question, wrong: 'The audit log knows no NOT: ask for one event, for one device, or for both.' };
    if (term.field !== 'event' && term.field !== 'device') return { question, wrong: `The audit log is filtered by event: and device: alone, not by “${term.field ?? term.value}”.` };
    if (question[term.field] !== undefined) return { question, wrong: `${term.field}: stands twice; the audit log answers one at a time.` };
    question[term.field] = term.value;
  }
  return { question };
}

export function useAudit(question: AuditQuestion, cursor: string, enabled: boolean) {
  return useQuery({
    queryKey: [RESOURCE, 'list', question.event ?? '', question.device ?? '', cursor],
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
