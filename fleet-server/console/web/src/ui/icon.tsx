// Line icons, 16 by 16, drawn for this console. Always beside a word or on a button with a name: never the only carrier.
import type { JSX } from 'preact';

const PATHS = {
  overview: 'M2.500 8.500 8 3l5.500 5.500M4 7.500V13h8V7.500M6.700 13V9.500h2.600V13',
  devices: 'M4.500 4.500h7v7h-7zM6.500 2v2.500M9.500 2v2.500M6.500 11.500V14M9.500 11.500V14M2 6.500h2.500M2 9.500h2.500M11.500 6.500H14M11.500 9.500H14',
  provisioning: 'M10 2.500a3.500 3.500 0 1 1-2.900 5.460L2.500 12.500v1.500H5v-1.500h1.500V11H8l1-1M10.800 5.200h.01',
  labeling: 'M2.500 3.500v4.300l6 6 5-5-6-6H3.200a.7.7 0 0 0-.7.700zM5.300 5.600h.01',
  datasets: 'M2.500 4.200c0-1 2.460-1.700 5.500-1.700s5.500.7 5.500 1.700v7.600c0 1-2.460 1.700-5.500 1.700s-5.500-.7-5.500-1.700zM2.500 4.200c0 1 2.460 1.700 5.500 1.700s5.500-.7 5.500-1.700M2.500 8c0 1 2.460 1.700 5.500 1.700S13.500 9 13.500 8',
  runs: 'M2.500 2.500v11h11M4.500 10.500l2.600-3.200 2.200 1.900L13 4.500',
  registry: 'M8 2 13.500 5v6L8 14l-5.500-3V5zM2.700 5.100 8 8l5.300-2.900M8 8v6',
  rollouts: 'M8 13.500v-8M4.800 8.200 8 5l3.200 3.200M3 2.500h10',
  drift: 'M1.500 11.500c2.500 0 2.500-7 5-7s2.500 7 5 7M6 13.500c2.500 0 2.500-6 4.500-6s2 4 4 4',
  audit: 'M4 2.500h8v11H4zM6 5.500h4M6 8h4M6 10.500h2.500',
  sessions: 'M8 7.500a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5zM3 13.500c.5-2.600 2.500-4 5-4s4.500 1.400 5 4',
  search: 'M7 11.500a4.500 4.500 0 1 0 0-9 4.500 4.500 0 0 0 0 9zM10.400 10.400l3.100 3.100',
  sun: 'M8 10.800a2.800 2.800 0 1 0 0-5.600 2.800 2.800 0 0 0 0 5.600zM8 1.500v1.300M8 13.200v1.300M1.500 8h1.300M13.200 8h1.300M3.400 3.400l.9.9M11.700 11.700l.9.9M12.600 3.400l-.9.9M4.300 11.700l-.9.9',
  moon: 'M13.300 9.600A5.600 5.600 0 0 1 6.400 2.700a5.600 5.600 0 1 0 6.900 6.900z',
  menu: 'M2.500 4.500h11M2.500 8h11M2.500 11.500h11',
  close: 'M4 4l8 8M12 4l-8 8',
  copy: 'M5.500 5.500h8v8h-8zM10.500 5.500v-3h-8v8h3',
  check: 'M3 8.500l3.200 3.200L13 5',
  down: 'M4.500 6.500 8 10l3.500-3.500',
  right: 'M6.500 4.500 10 8l-3.500 3.500',
  plus: 'M8 3v10M3 8h10',
  more: 'M3.500 8h.01M8 8h.01M12.500 8h.01',
  filter: 'M2 3.500h12M4.500 8h7M6.800 12.500h2.400',
  star: 'M8 2.200l1.800 3.700 4 .6-2.900 2.800.7 4L8 11.400l-3.600 1.900.7-4L2.200 6.500l4-.6z',
  columns: 'M2.500 3h11v10h-11zM6.200 3v10M9.800 3v10',
  terminal: 'M3 4.500 6.500 8 3 11.500M8 11.500h5',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }): JSX.Element {
  return (
    <svg
      class="icon"
      width={size}
      height={size}
      viewBox="0 0 16 16"
      fill="none"
      stroke="currentColor"
      stroke-width={name === 'more' ? 2 : 1.4}
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Mark(): JSX.Element {
  return (
    <svg class="mark" width="22" height="22" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" class="mark-ground" />
      <path d="M16 5v15H7.500zM18 10.500l6 9.500h-6z" class="mark-sail" />
      <path d="M6 22.500h20l-2.600 4.500H8.600z" class="mark-hull" />
    </svg>
  );
}
