// Foreign names, times, keys.
import type { JSX } from 'preact';
import { useNow } from '../lib/hooks';
import { NOTHING, parseTime, relative, timestamp } from '../lib/format';
import { keyLabels } from '../lib/keys';

/** A name that somebody else chose: its direction stays its own, long ones are cut with the whole in the tooltip. */
export function Name({ value, strong = false }: { value: string; strong?: boolean }): JSX.Element {
  return (
    <bdi class={strong ? 'name strong' : 'name'} title={value}>
      {value}
    </bdi>
  );
}

/** `15 min`, and the exact time in the tooltip. */
export function Ago({ time, suffix = false }: { time: string | number | null | undefined; suffix?: boolean }): JSX.Element {
  const now = useNow();
  const at = parseTime(time);
  if (at === undefined) return <span class="muted">{NOTHING}</span>;
  const words = relative(at, now);
  return (
    <time dateTime={new Date(at).toISOString()} title={timestamp(at)}>
      {words}
      {suffix && words !== 'now' && !words.startsWith('in ') ? ' ago' : ''}
    </time>
  );
}

export function KeyHint({ keys }: { keys: string }): JSX.Element {
  return (
    <span class="keys">
      {keyLabels(keys).map((label, index) => (
        <kbd key={index}>{label}</kbd>
      ))}
    </span>
  );
}
