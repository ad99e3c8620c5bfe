// Reference and live data of one feature over the bins that they share. The bins hold equal parts of the reference, so their
// widths differ, by a thousand times where a feature has a long tail. As a density each bin's area is its share; the axis is
// stretched where the reference is dense, half by value and half by bin, so that no bin vanishes. Bars and a line: colour is
// not the only difference. Each bin says its figures.
import type { JSX } from 'preact';
import { figure, percent } from '../../lib/format';
import type { Bin } from './shapes';
import { furthest } from './shapes';

const WIDTH = 560;
const TOP = 8;

export type Axis = 'value' | 'bins';

/** `label`: the feature's name, for those who do not see the picture. */
export function Density({ bins, label, axis, height = 168 }: { bins: readonly Bin[]; label: string; axis: Axis; height?: number }): JSX.Element {
  const low = bins[0]?.from ?? 0;
  const high = bins.at(-1)?.to ?? 1;
  // Halved, because the largest numbers have a difference that is none.
  const span = Math.max(Number.MIN_VALUE, high / 2 - low / 2);
  const byValue = axis === 'value' ? 0.5 : 0;
  const at = (value: number, index: number): number => WIDTH * (byValue * ((value / 2 - low / 2) / span) + ((1 - byValue) * index) / Math.max(1, bins.length));
  const drawn = bins.map((bin, index) => {
    const left = at(bin.from, index);
    const width = at(bin.to, index + 1) - left;
    return { bin, left, width, reference: bin.reference / width, live: bin.live / width };
  });
  const ceiling = Math.max(1e-12, ...drawn.flatMap((each) => [each.reference, each.live]));
  const y = (density: number): number => height - (density / ceiling) * (height - TOP);
  const bars = drawn.map((each) => `M${each.left.toFixed(1)} ${height}V${y(each.reference).toFixed(1)}H${(each.left + each.width - Math.min(1.5, each.width / 4)).toFixed(1)}V${height}Z`).join('');
  const line = drawn.map((each, index) => `${index === 0 ? 'M' : 'L'}${each.left.toFixed(1)} ${y(each.live).toFixed(1)}H${(each.left + each.width).toFixed(1)}`).join('');
  const worst = furthest(bins);
  const said =
    worst === undefined
      ? `${label}: no observations.`
      : `${label}, reference against live. Furthest apart from ${figure(worst.from, 3)} to ${figure(worst.to, 3)}: ${percent(worst.reference)} of the reference, ${percent(worst.live)} live.`;
  return (
    <div class="histogram">
      <svg viewBox={`0 0 ${WIDTH} ${height}`} preserveAspectRatio="none" role="img" aria-label={said} style={{ height: `${height}px` }}>
        <path class="hist-reference" d={bars} />
        <path class="hist-live" d={line} vector-effect="non-scaling-stroke" />
        <path class="hist-base" d={`M0 ${height - 0.5}H${WIDTH}`} vector-effect="non-scaling-stroke" />
        {drawn.map((each) => (
          <rect key={each.bin.from} class="dr-hit" x={each.left} y={0} width={each.width} height={height}>
            <title>{`${figure(each.bin.from, 3)} to ${figure(each.bin.to, 3)}: reference ${percent(each.bin.reference)}, live ${percent(each.bin.live)}`}</title>
          </rect>
        ))}
      </svg>
      <div class="hist-axis dr-axis num" aria-hidden="true">
        {ticks(drawn, high).map((tick) => (
          <span key={tick.at} class="dr-tick" style={{ insetInlineStart: `${(100 * tick.at) / WIDTH}%` }}>
            {figure(tick.value, 3)}
          </span>
        ))}
      </div>
    </div>
  );
}

/** Bounds of bins near the quarters of the axis, and its ends. */
function ticks(drawn: readonly { bin: Bin; left: number }[], high: number): { at: number; value: number }[] {
  const marks = [...drawn.map((each) => ({ at: each.left, value: each.bin.from })), { at: WIDTH, value: high }];
  const chosen = [0, 0.25, 0.5, 0.75, 1].map((share) => marks.reduce((best, mark) => (Math.abs(mark.at - share * WIDTH) < Math.abs(best.at - share * WIDTH) ? mark : best), marks[0] ?? { at: 0, value: 0 }));
  return chosen.filter((mark, index) => index === 0 || mark.at - (chosen[index - 1]?.at ?? 0) > WIDTH / 5.5);
}
