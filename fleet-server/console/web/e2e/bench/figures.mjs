// How the bench speaks: a line per figure, and lines that say where it is.
import { quantile } from '../timing.mjs';

export function say(words) {
  console.log(`- ${words}`);
}

export function figure(name, value, unit) {
  console.log(`figure ${name} ${Number.isInteger(value) ? value : value.toFixed(1)} ${unit}`);
}

/** Of times in milliseconds. */
export function spread(name, times) {
  if (times.length === 0 || !times.every(Number.isFinite)) throw new Error(`${name}: ${times}`);
  figure(`${name}_median`, quantile(times, 0.5), 'ms');
  figure(`${name}_p95`, quantile(times, 0.95), 'ms');
}
