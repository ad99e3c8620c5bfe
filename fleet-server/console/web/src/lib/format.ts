// Numbers, sizes, times and foreign text for people. Everything is English and locale-independent, so that two people who
// look at the same screen read the same thing.

const COUNT = new Intl.NumberFormat('en');
const COMPACT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

/** What stands where nothing is known. */
export const NOTHING = '–';

/** From here on a number is a power of ten: written out, nobody reads it, and it is wider than any screen. */
const WRITTEN_OUT = 1e21;
const RAISED = '⁰¹²³⁴⁵⁶⁷⁸⁹';

/** `1.2×10⁻⁷`: what programs write as `1.2e-7` reads as a name or a digest. */
function power(value: number, digits: number): string {
  const [mantissa, exponent = ''] = value.toExponential(Math.max(0, digits - 1)).split('e');
  return `${Number(mantissa)}×10${exponent.replace('+', '').replace('-', '⁻').replace(/\d/g, (digit) => RAISED[Number(digit)] ?? '')}`;
}

/** `toFixed` for numbers of any size. */
export function fixed(value: number, digits: number): string {
  return Math.abs(value) < WRITTEN_OUT ? value.toFixed(digits) : power(value, 3);
}

/** `100,000`; not a finite number: `–`. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  return Math.abs(value) < WRITTEN_OUT ? COUNT.format(value) : power(value, 3);
}

/** `1.2M`, where a column is narrow. */
export function compact(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  return Math.abs(value) < WRITTEN_OUT ? COMPACT.format(value) : power(value, 2);
}

/** `1 device`, `2 devices`. */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Binary units: `1.5 MiB`. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let amount = Math.abs(value);
  let unit = 0;
  while (amount >= 1023.95 && unit < units.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  const text = unit === 0 ? String(Math.round(amount)) : amount >= 100 ? fixed(amount, 0) : amount.toFixed(1);
  return `${value < 0 ? '−' : ''}${text} ${units[unit] ?? 'B'}`;
}

/** A length of time in milliseconds: `840 ms`, `12.5 s`, `4 min`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NOTHING;
  const size = Math.abs(ms);
  if (size < 1) return size === 0 ? '0 ms' : `${Math.round(size * 1000)} µs`;
  if (size < 1000) return `${size < 10 ? size.toFixed(1).replace(/\.0$/, '') : Math.round(size)} ms`;
  if (size < 60_000) return `${(size / 1000).toFixed(size < 10_000 ? 1 : 0).replace(/\.0$/, '')} s`;
  const minutes = Math.floor(size / 60_000);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  const days = Math.floor(hours / 24);
  return hours % 24 === 0 ? `${count(days)} d` : `${count(days)} d ${hours % 24} h`;
}

/** Microseconds, as latencies come. */
export function micros(us: number | null | undefined): string {
  return us === null || us === undefined ? NOTHING : duration(us / 1000);
}

/** Beyond, there are no dates. */
const LAST_MS = 8.64e15;

export function parseTime(text: string | number | null | undefined): number | undefined {
  if (text === null || text === undefined) return undefined;
  const at = typeof text === 'number' ? text : Date.parse(text);
  return Math.abs(at) <= LAST_MS ? at : undefined;
}

/** One unit, as in a column: `now`, `47 s`, `15 min`, `3 h`, `9 d`; a time ahead of ours: `in 3 min`. */
export function relative(time: string | number | null | undefined, now: number): string {
  const at = parseTime(time);
  if (at === undefined) return NOTHING;
  const gap = now - at;
  const seconds = Math.round(Math.abs(gap) / 1000);
  if (seconds < 5) return 'now';
  const text =
    seconds < 60
      ? `${seconds} s`
      : seconds < 3600
        ? `${Math.floor(seconds / 60)} min`
        : seconds < 86_400
          ? `${Math.floor(seconds / 3600)} h`
          : seconds < 86_400 * 365
            ? `${Math.floor(seconds / 86_400)} d`
            : `${Math.floor(seconds / (86_400 * 365))} y`;
  return gap < 0 ? `in ${text}` : text;
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}

/** `UTC+01:00`, or `UTC`: how far ahead the reader's clocks are at that time, summer or winter. */
function zone(date: Date): string {
  const ahead = Math.round(-date.getTimezoneOffset());
  const size = Math.abs(ahead);
  return size === 0 ? 'UTC' : `UTC${ahead < 0 ? '−' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

/** `2026-11-23 04:41:32 UTC+01:00`: in the reader's time zone, which it names, because what is copied is read elsewhere. */
export function timestamp(time: string | number | null | undefined): string {
  const at = parseTime(time);
  if (at === undefined) return NOTHING;
  const date = new Date(at);
  const day = `${String(date.getFullYear()).padStart(4, '0')}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())} ${zone(date)}`;
}

/** Text of the server's with its times as all others are shown: in the reader's time zone, by name. */
export function withTimes(text: string): string {
  return text.replace(/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/g, (time) => timestamp(time));
}

/** `12.5 %` from 0.125; `NaN` and the like: `–`. */
export function percent(share: number | null | undefined, digits = 1): string {
  if (share === null || share === undefined || !Number.isFinite(share * 100)) return NOTHING;
  return `${fixed(share * 100, digits).replace(/\.0+$/, '')} %`;
}

/** A measured value with `digits` significant figures at most: `0.3214`, `12.5`, `1.2×10⁻⁷`. */
export function figure(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return power(value, digits);
  return String(Number(value.toPrecision(digits)));
}

/** The first characters of a digest; the whole is what gets copied. */
export function shortDigest(digest: string, length = 12): string {
  const hex = digest.replace(/^sha256:/, '');
  return hex.length <= length + 1 ? hex : `${hex.slice(0, length)}…`;
}

/** Text of unknown direction inside a sentence that is not markup (titles, labels): isolated, control characters removed. */
export function isolate(text: string): string {
  return `\u2068${text.replace(/[\u2066-\u2069\u202A-\u202E\u0000-\u001F\u007F]/g, '')}\u2069`;
}
