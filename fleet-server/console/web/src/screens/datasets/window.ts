// The raw values of a window, taken apart into channels and put together again by what they measure.

export interface Channel {
  name: string;
  /** Within its group: `x` of `accel_x`. */
  short: string;
  values: readonly number[];
  mean: number;
  std: number;
}

export interface ChannelGroup {
  name: string;
  channels: readonly Channel[];
}

/** Most lines in one chart: as many as there are colours. */
const MOST_LINES = 7;

/** `accel_x`, `accel_y` and `gyro_x` make `accel` and `gyro`: what belongs together shares an axis. */
export function groupChannels(names: readonly string[], values: readonly number[]): ChannelGroup[] {
  const steps = Math.floor(values.length / Math.max(1, names.length));
  const groups = new Map<string, Channel[]>();
  for (const [place, name] of names.entries()) {
    const cut = /^(.+)[_.\- ]([^_.\- ]+)$/.exec(name);
    const prefix = cut?.[1];
    const shared = prefix !== undefined && names.some((other) => other !== name && other.startsWith(prefix) && /^[_.\- ][^_.\- ]+$/.test(other.slice(prefix.length)));
    const own = Array.from({ length: steps }, (_unused, step) => values[step * names.length + place] ?? Number.NaN);
    const mean = own.reduce((sum, value) => sum + value, 0) / Math.max(1, steps);
    const std = Math.sqrt(own.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, steps));
    const key = shared ? prefix : name;
    const group = groups.get(key) ?? [];
    group.push({ name, short: shared ? (cut?.[2] ?? name) : name, values: own, mean, std });
    groups.set(key, group);
  }
  return [...groups].flatMap(([name, channels]) => {
    const parts: ChannelGroup[] = [];
    for (let from = 0; from < channels.length; from += MOST_LINES)
      parts.push({ name: from === 0 ? name : `${name} (${from + 1} to ${Math.min(channels.length, from + MOST_LINES)})`, channels: channels.slice(from, from + MOST_LINES) });
    return parts;
  });
}

/** Round marks, five at most, inside [low, high]. */
export function ticks(low: number, high: number): number[] {
  const rough = (high - low) / 5;
  if (!(rough > 0) || !Number.isFinite(rough)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? rough;
  const marks: number[] = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9 && marks.length < 8; at += 1) marks.push(Number((at * step).toPrecision(12)));
  return marks;
}
