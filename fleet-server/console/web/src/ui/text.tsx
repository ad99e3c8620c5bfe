// Foreign names, times, keys.
import { createContext } from 'preact';
import type { JSX } from 'preact';
import { useContext } from 'preact/hooks';
import { useNow } from '../lib/hooks';
import { NOTHING, parseTime, relative, timestamp } from '../lib/format';
import { keyLabels } from '../lib/keys';

/** A name that somebody else chose: its direction stays its own. One that is cut is whole where what it names is looked at. */
export function Name({ value, strong = false }: { value: string; strong?: boolean }): JSX.Element {
  return (
    <bdi class={strong ? 'name strong' : 'name'} title={value}>
      {value}
    </bdi>
  );
}

/** Whether times are written out. A tooltip needs a mouse: where one thing is looked at, the exact time has to be text. */
export const ExactTimes = createContext(false);

/** `15 min`, with the exact time in the tooltip; `exact` (and everywhere in `Facts`): the exact time, then the age. */
export function Ago({ time, suffix = false, exact }: { time: string | number | null | undefined; suffix?: boolean; exact?: boolean }): JSX.Element {
  const now = useNow();
  const around = useContext(ExactTimes);
  const at = parseTime(time);
  if (at === undefined) return <span class="muted">{NOTHING}</span>;
  const written = exact ?? around;
  const age = relative(at, now);
  const words = (suffix || written) && age !== 'now' && !age.startsWith('in ') ? `${age} ago` : age;
  if (!written) {
    return (
      <time dateTime={new Date(at).toISOString()} title={timestamp(at)}>
        {words}
      </time>
    );
  }
  return (
    <time dateTime={new Date(at).toISOString()}>
      {timestamp(at)} <span class="muted">({words})</span>
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
