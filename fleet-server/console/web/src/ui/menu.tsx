// A menu on the native popover. Arrows, Home, End and first letters move; Escape and outside clicks are the browser's.
import type { ComponentChildren, JSX } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { useUid } from '../lib/hooks';
import { Icon } from './icon';
import type { IconName } from './icon';

export interface MenuItem {
  label: string;
  run(): void;
  icon?: IconName;
  /** For choices: shown with a tick. */
  checked?: boolean;
  /** One that is switched on and off by itself, not one of several. */
  toggle?: boolean;
  danger?: boolean;
  disabled?: boolean;
  hint?: ComponentChildren;
}

/** Puts a popover beside its button, inside the window. Safe under the policy: styles are set through the CSSOM. */
export function placePopover(anchor: HTMLElement, popover: HTMLElement, align: 'start' | 'end'): void {
  const box = anchor.getBoundingClientRect();
  const width = popover.offsetWidth;
  const height = popover.offsetHeight;
  const left = align === 'start' ? box.left : box.right - width;
  const below = box.bottom + 4;
  const top = below + height > innerHeight - 8 && box.top - 4 - height > 8 ? box.top - 4 - height : below;
  popover.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  popover.style.top = `${top}px`;
}

export function Menu({
  label,
  items,
  children,
  align = 'end',
  class: extra = 'button',
  header,
}: {
  /** Name of the button. */
  label: string;
  items: readonly MenuItem[];
  children: ComponentChildren;
  align?: 'start' | 'end';
  class?: string;
  header?: ComponentChildren;
}): JSX.Element {
  const button = useRef<HTMLButtonElement>(null);
  const popover = useRef<HTMLDivElement>(null);
  const [open, setOpen] = useState(false);
  const id = useUid('menu');
  const entries = (): HTMLElement[] => [...(popover.current?.querySelectorAll<HTMLElement>('[role^=menuitem]:not(:disabled)') ?? [])];
  useEffect(() => {
    const element = popover.current;
    if (element === null) return undefined;
    const toggled = (event: Event): void => {
      const shown = (event as ToggleEvent).newState === 'open';
      setOpen(shown);
      if (!shown || button.current === null) return;
      placePopover(button.current, element, align);
      entries()[0]?.focus();
    };
    element.addEventListener('toggle', toggled);
    return () => element.removeEventListener('toggle', toggled);
  }, [align]);
  const move = (event: KeyboardEvent): void => {
    const all = entries();
    const at = all.indexOf(document.activeElement as HTMLElement);
    let to: HTMLElement | undefined;
    if (event.key === 'ArrowDown') to = all[(at + 1) % all.length];
    else if (event.key === 'ArrowUp') to = all[(at - 1 + all.length) % all.length];
    else if (event.key === 'Home') to = all[0];
    else if (event.key === 'End') to = all.at(-1);
    else if (event.key === 'Tab') popover.current?.hidePopover();
    else if (event.key.length === 1 && event.key !== ' ')
      to = [...all.slice(at + 1), ...all].find((entry) => entry.textContent?.trim().toLowerCase().startsWith(event.key.toLowerCase()));
    if (to !== undefined) {
      event.preventDefault();
      to.focus();
    }
  };
  return (
    <>
      <button
        ref={button}
        type="button"
        class={extra}
        aria-label={label}
        aria-haspopup="menu"
        aria-expanded={open}
        aria-controls={id}
        onClick={() => popover.current?.togglePopover()}
        onKeyDown={(event) => {
          if (event.key !== 'ArrowDown') return;
          event.preventDefault();
          popover.current?.showPopover();
        }}
      >
        {children}
      </button>
      <div ref={popover} id={id} popover="auto" class="popover">
        {header === undefined ? null : <div class="menu-head">{header}</div>}
        <div class="menu" role="menu" aria-label={label} onKeyDown={move}>
          {items.map((item) => (
            <button
              key={item.label}
              type="button"
              role={item.checked === undefined ? 'menuitem' : item.toggle === true ? 'menuitemcheckbox' : 'menuitemradio'}
              aria-checked={item.checked}
              tabIndex={-1}
              disabled={item.disabled}
              class={item.danger === true ? 'danger' : undefined}
              onClick={() => {
                popover.current?.hidePopover();
                button.current?.focus();
                item.run();
              }}
            >
              <span class="menu-icon">
                {item.checked === true ? <Icon name="check" size={14} /> : item.icon === undefined ? null : <Icon name={item.icon} size={14} />}
              </span>
              <span class="menu-label">{item.label}</span>
              {item.hint}
            </button>
          ))}
        </div>
      </div>
    </>
  );
}
