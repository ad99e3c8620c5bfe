// More about something, on hover and on focus. Only for text that explains; what has to be read stands in the page.
import type { ComponentChildren, JSX } from 'preact';
import { useRef } from 'preact/hooks';
import { useUid } from '../lib/hooks';
import { placePopover } from './menu';

export function Tooltip({ text, children }: { text: string; children: ComponentChildren }): JSX.Element {
  const anchor = useRef<HTMLButtonElement>(null);
  const popover = useRef<HTMLSpanElement>(null);
  const id = useUid('tip');
  const show = (): void => {
    if (anchor.current === null || popover.current === null) return;
    popover.current.showPopover();
    placePopover(anchor.current, popover.current, 'start');
  };
  const hide = (): void => popover.current?.hidePopover();
  return (
    <>
      <button
        ref={anchor}
        type="button"
        class="tip-anchor"
        aria-describedby={id}
        onPointerEnter={show}
        onPointerLeave={hide}
        onFocus={show}
        onBlur={hide}
        onKeyDown={(event) => {
          if (event.key === 'Escape') hide();
        }}
      >
        {children}
      </button>
      <span ref={popover} id={id} role="tooltip" popover="manual" class="popover tip">
        {text}
      </span>
    </>
  );
}
