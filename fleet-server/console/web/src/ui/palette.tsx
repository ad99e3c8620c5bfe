// Ctrl+K: go anywhere, do anything that the screen offers, find a device.
import type { JSX } from 'preact';
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { useQuery } from '@tanstack/preact-query';
import { useDebounced, useUid } from '../lib/hooks';
import { useShortcuts } from '../lib/keys';
import { navigate } from '../lib/router';
import { createStore, useStore } from '../lib/store';
import { Icon } from './icon';
import type { IconName } from './icon';
import { KeyHint } from './text';

export interface Command {
  label: string;
  group: string;
  icon?: IconName;
  keys?: string;
  /** Other words people may type. */
  words?: string;
  run(): void;
}

const commands = createStore<readonly Command[]>([]);
export const paletteOpen = createStore(false);

/** Puts commands into the palette while the component is mounted. */
export function useCommands(make: () => readonly Command[], dependencies: readonly unknown[]): void {
  useEffect(() => {
    const added = make();
    commands.set((before) => [...before, ...added]);
    return () => commands.set((before) => before.filter((command) => !added.includes(command)));
  }, [...dependencies]);
}

/** Letters in order, the closer and the earlier the better; undefined when they are not there. */
export function score(wanted: string, label: string): number | undefined {
  const needle = wanted.toLowerCase().replace(/\s+/g, '');
  const hay = label.toLowerCase();
  if (needle === '') return 0;
  const whole = hay.indexOf(wanted.trim().toLowerCase());
  if (whole >= 0) return 1000 - whole - (hay.length - needle.length) / 100;
  let at = -1;
  let points = 0;
  for (const letter of needle) {
    const next = hay.indexOf(letter, at + 1);
    if (next < 0) return undefined;
    points += next === at + 1 ? 5 : hay[next - 1] === ' ' ? 4 : 1;
    at = next;
  }
  return points;
}

/** Finds things on the server by what was typed; set by the app so that this file knows no API. */
export type PaletteSearch = (text: string, signal: AbortSignal) => Promise<{ label: string; note: string; href: string; icon: IconName }[]>;

export function Palette({ search }: { search: PaletteSearch }): JSX.Element | null {
  const open = useStore(paletteOpen);
  useShortcuts(
    () => [{ keys: 'mod+k', label: 'Search or jump to…', group: 'General', run: () => paletteOpen.set((before) => !before) }],
    [],
  );
  return open ? <PaletteDialog search={search} /> : null;
}

function PaletteDialog({ search }: { search: PaletteSearch }): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const [text, setText] = useState('');
  const [active, setActive] = useState(0);
  const known = useStore(commands);
  const id = useUid('palette');
  const wanted = useDebounced(text.trim(), 120);
  const found = useQuery({
    queryKey: ['device', 'palette', wanted],
    queryFn: ({ signal }) => search(wanted, signal),
    enabled: wanted.length >= 2,
    retry: false,
  });
  // Before the next key arrives: what is typed right after Ctrl+K belongs here, not to the button that had the focus.
  useLayoutEffect(() => {
    const opener = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (opener instanceof HTMLElement && opener.isConnected && document.activeElement === document.body) opener.focus();
    };
  }, []);
  const results: Command[] = useMemo(() => {
    const matching = known
      .map((command) => ({ command, points: score(text, `${command.label} ${command.words ?? ''}`) }))
      .filter((entry) => entry.points !== undefined)
      .sort((left, right) => (right.points ?? 0) - (left.points ?? 0))
      .map((entry) => entry.command)
      .slice(0, text === '' ? 40 : 8);
    const devices = text.trim().length < 2 ? [] : (found.data ?? []);
    return [
      ...matching,
      ...devices.map((device) => ({ label: device.label, group: 'Devices', icon: device.icon, words: device.note, run: () => navigate(device.href) })),
    ];
  }, [known, text, found.data]);
  const groups = useMemo(() => {
    const order: { name: string; items: { command: Command; index: number }[] }[] = [];
    const sorted = [...new Set(results.map((command) => command.group))];
    let index = 0;
    for (const name of sorted) {
      const items = results.filter((command) => command.group === name).map((command) => ({ command, index: index++ }));
      order.push({ name, items });
    }
    return order;
  }, [results]);
  const flat = groups.flatMap((group) => group.items);
  const close = (): void => paletteOpen.set(false);
  const run = (index: number): void => {
    const chosen = flat[index]?.command;
    if (chosen === undefined) return;
    // Closed first: otherwise Enter would also press the button that opened the palette.
    dialog.current?.close();
    close();
    queueMicrotask(() => chosen.run());
  };
  useEffect(() => {
    document.getElementById(`${id}-${active}`)?.scrollIntoView({ block: 'nearest' });
  }, [active, id]);
  return (
    <dialog
      ref={dialog}
      class="palette"
      aria-label="Search or jump to"
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      onPointerDown={(event) => {
        if (event.target === dialog.current) close();
      }}
    >
      <div class="palette-input">
        <Icon name="search" />
        <input
          autofocus
          role="combobox"
          aria-expanded="true"
          aria-controls={id}
          aria-label="Search or jump to"
          aria-activedescendant={flat.length > 0 ? `${id}-${active}` : undefined}
          autocomplete="off"
          spellcheck={false}
          placeholder="A screen, an action or a device"
          value={text}
          onInput={(event) => {
            setText(event.currentTarget.value);
            setActive(0);
          }}
          onKeyDown={(event) => {
            if (event.key === 'ArrowDown') setActive((active + 1) % Math.max(1, flat.length));
            else if (event.key === 'ArrowUp') setActive((active - 1 + flat.length) % Math.max(1, flat.length));
            else if (event.key === 'Enter') run(active);
            else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'k') close();
            else return;
            event.preventDefault();
            event.stopPropagation();
          }}
        />
        <KeyHint keys="Esc" />
      </div>
      <div id={id} role="listbox" aria-label="Results" class="palette-list">
        {groups.map((group) => (
          <div key={group.name} role="group" aria-label={group.name}>
            <div class="palette-group" aria-hidden="true">
              {group.name}
            </div>
            {group.items.map(({ command, index }) => (
              <div
                key={`${command.group}/${command.label}`}
                id={`${id}-${index}`}
                role="option"
                aria-selected={index === active}
                onPointerMove={() => setActive(index)}
                onClick={() => run(index)}
              >
                {command.icon === undefined ? <span class="icon" /> : <Icon name={command.icon} />}
                <bdi>{command.label}</bdi>
                {command.group === 'Devices' && command.words !== undefined ? <span class="muted">{command.words}</span> : null}
                {command.keys === undefined ? null : <KeyHint keys={command.keys} />}
              </div>
            ))}
          </div>
        ))}
      </div>
      {flat.length === 0 ? <p class="palette-none">{found.isFetching ? 'Searching…' : `Nothing is called “${text}”.`}</p> : null}
    </dialog>
  );
}
