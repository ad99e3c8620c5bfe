// Events of a device's timeline in words. What is not known here is shown by its own name: agents may be newer than this page.
import { percent, shortDigest, withTimes } from '../../lib/format';
import type { Tone } from '../../ui/status';
import type { TimelineEvent } from './data';

const KNOWN: Record<string, readonly [Tone, string]> = {
  'agent.started': ['idle', 'Agent started'],
  'attack.refused': ['bad', 'Refused an attack'],
  'attack.reported': ['bad', 'Reported an attack'],
  'deployment.already-installed': ['ok', 'Update: was there already'],
  'deployment.decommissioned': ['idle', 'Update ended: decommissioned'],
  'deployment.downloading': ['busy', 'Update downloading'],
  'deployment.failure': ['bad', 'Update failed'],
  'deployment.installing': ['busy', 'Update installing'],
  'deployment.no-longer-applicable': ['idle', 'Update no longer wanted'],
  'deployment.pending': ['busy', 'Update waits'],
  'deployment.rolled-back': ['bad', 'Update rolled back'],
  'deployment.soaking': ['busy', 'Update soaking'],
  'deployment.success': ['ok', 'Update succeeded'],
  'deployment.verifying': ['busy', 'Update verifying'],
  'device.audit-gap': ['bad', 'Audit entries were lost'],
  'device.certificate-renewed': ['info', 'Certificate renewed'],
  'device.connected': ['ok', 'Connected'],
  'device.decommissioned': ['bad', 'Decommissioned'],
  'device.disconnected': ['idle', 'Disconnected'],
  'device.enrolled': ['info', 'Enrolled'],
  'device.restored': ['info', 'State restored'],
  'device.tagged': ['info', 'Tags changed'],
  'drift.alarm': ['bad', 'Drift alarm'],
  'drift.clear': ['ok', 'Drift is over'],
  'drift.cleared': ['ok', 'Drift is over'],
  'drift.detected': ['bad', 'Drift detected on the device'],
  'epoch.opened': ['idle', 'Audit epoch opened'],
  'message.refused': ['bad', 'Message refused'],
  'content.damaged': ['bad', 'Content damaged on its disk'],
  'model.activated': ['busy', 'Model activated'],
  'model.committed': ['ok', 'Model committed'],
  'model.lost': ['bad', 'Model lost'],
  'model.removed': ['idle', 'Model removed'],
  'model.rolled-back': ['bad', 'Model rolled back'],
  'samples.refused': ['bad', 'Samples refused'],
  'update.started': ['busy', 'Update started'],
};

export function eventWords(event: string): { tone: Tone; title: string } {
  const known = KNOWN[event.replaceAll('_', '-')];
  return known === undefined ? { tone: 'info', title: event } : { tone: known[0], title: known[1] };
}

const DIGEST = /^sha256:[0-9a-f]{64}$/;
/** Said already by the event's place, or of use to programs alone. The audit screen shows everything. */
const LEFT_OUT = new Set(['manifest', 'line', 'release_counter', 'deployment', 'fleet', 'previous_count', 'previous_hash', 'certificate']);

function valueWords(name: string, value: string): string {
  if (DIGEST.test(value)) return shortDigest(value);
  return name === 'share' && value !== '' && Number.isFinite(Number(value)) ? percent(Number(value)) : withTimes(value);
}

/** What the event says of itself, the parts a person reads first. */
export function detailWords(event: TimelineEvent, versionOf: (manifest: string) => string | undefined): string {
  const { manifest, line } = event.detail;
  const parts: string[] = [];
  const version = manifest === undefined ? undefined : versionOf(manifest);
  if (line !== undefined) parts.push(version === undefined ? line : `${line} ${version}`);
  if (manifest !== undefined && version === undefined) parts.push(`package ${shortDigest(manifest)}`);
  for (const [name, value] of Object.entries(event.detail)) {
    if (value === '' || LEFT_OUT.has(name)) continue;
    parts.push(`${name.replaceAll('_', ' ')} ${valueWords(name, value)}`);
  }
  return parts.join(' · ');
}
