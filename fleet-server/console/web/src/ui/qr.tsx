// A QR code as SVG: always dark on white, because scanners want that in either theme.
import { encode } from 'uqr';
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';

export function Qr({ text, label, size = 176 }: { text: string; label: string; size?: number }): JSX.Element {
  const { path, side } = useMemo(() => {
    const code = encode(text, { ecc: 'M', border: 2 });
    let drawn = '';
    code.data.forEach((row, y) => {
      row.forEach((dark, x) => {
        if (dark) drawn += `M${x} ${y}h1v1h-1z`;
      });
    });
    return { path: drawn, side: code.size };
  }, [text]);
  return (
    <svg class="qr" role="img" aria-label={label} width={size} height={size} viewBox={`0 0 ${side} ${side}`} shape-rendering="crispEdges">
      <rect width={side} height={side} fill="#fff" />
      <path d={path} fill="#000" />
    </svg>
  );
}
