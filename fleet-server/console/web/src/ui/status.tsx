// A state in glyph, word and colour: colour is never alone.
import type { ComponentChildren, JSX } from 'preact';
import { Link } from '../lib/router';

export type Tone = 'ok' | 'idle' | 'busy' | 'bad' | 'info';

const GLYPH: Record<Tone, string> = { ok: '●', idle: '○', busy: '◐', bad: '▲', info: '◆' };

/** The words that the API uses for states, and how they look. Unknown words are shown as they are, neutrally. */
const TONES: Record<string, Tone> = {
  online: 'ok', healthy: 'ok', done: 'ok', succeeded: 'ok', completed: 'ok', finished: 'ok', signed: 'ok', committed: 'ok', verified: 'ok', active: 'ok', live: 'ok', installed: 'ok', enrolled: 'ok',
  offline: 'idle', decommissioned: 'idle', draft: 'idle', pending: 'idle', queued: 'idle', cancelled: 'idle', unsigned: 'idle', revoked: 'idle', expired: 'idle', skipped: 'idle', superseded: 'idle', used: 'idle',
  updating: 'busy', running: 'busy', paused: 'busy', soaking: 'busy', downloading: 'busy', verifying: 'busy', reconnecting: 'busy', connecting: 'busy', partial: 'busy', importing: 'busy', started: 'busy',
  alert: 'bad', failed: 'bad', aborted: 'bad', halted: 'bad', drifted: 'bad', broken: 'bad', refused: 'bad', rejected: 'bad', rolled_back: 'bad', 'rolled-back': 'bad', invalid: 'bad',
};

export function toneOf(word: string): Tone {
  return TONES[word.toLowerCase()] ?? 'info';
}

function asWords(word: string): string {
  const spaced = word.replace(/[_-]+/g, ' ');
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

/** `<Status value="online" />`, `<Status tone="bad">2 gates failed</Status>`. */
export function Status({ value, tone, children }: { value?: string; tone?: Tone; children?: ComponentChildren }): JSX.Element {
  const look = tone ?? toneOf(value ?? '');
  return (
    <span class={`status ${look}`}>
      <i aria-hidden="true">{GLYPH[look]}</i>
      <span>{children ?? asWords(value ?? '')}</span>
    </span>
  );
}

/** A figure with its name. With `href` the whole card is a link (and says when it is in force with `current`). */
export function Stat({
  label,
  value,
  note,
  tone,
  href,
  current = false,
}: {
  label: string;
  value: ComponentChildren;
  note?: ComponentChildren;
  tone?: Tone;
  href?: string;
  current?: boolean;
}): JSX.Element {
  const inside = (
    <>
      {tone === undefined ? <span class="stat-label">{label}</span> : <Status tone={tone}>{label}</Status>}
      <b class="stat-value">{value}</b>
      {note === undefined ? null : <span class="stat-note">{note}</span>}
    </>
  );
  if (href === undefined) return <div class="card stat">{inside}</div>;
  return (
    <Link class={`card stat${current ? ' current' : ''}`} href={href} aria-current={current ? 'true' : undefined}>
      {inside}
    </Link>
  );
}
