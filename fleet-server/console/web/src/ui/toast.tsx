// Short notes that something was done. Errors stay where they happened (ErrorNote); a toast never carries one alone.
import type { JSX } from 'preact';
import { createStore, useStore } from '../lib/store';
import { IconButton } from './button';
import { Icon } from './icon';

interface Toast {
  id: number;
  text: string;
  action?: { label: string; run(): void };
}

const toasts = createStore<readonly Toast[]>([]);
const MAX_TOASTS = 4;
let next = 1;

function dismiss(id: number): void {
  toasts.set((before) => before.filter((toast) => toast.id !== id));
}

/** `toast('Device decommissioned')`; with an action it stays longer: `toast('Labelled', { label: 'Undo', run })`. */
export function toast(text: string, action?: Toast['action']): void {
  const id = next;
  next += 1;
  toasts.set((before) => [...before, { id, text, ...(action === undefined ? {} : { action }) }].slice(-MAX_TOASTS));
  setTimeout(() => dismiss(id), action === undefined ? 5000 : 10_000);
}

export function Toasts(): JSX.Element {
  const shown = useStore(toasts);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {shown.map((item) => (
        <div key={item.id} class="toast">
          <Icon name="check" />
          <span>{item.text}</span>
          {item.action === undefined ? null : (
            <button
              type="button"
              class="link"
              onClick={() => {
                item.action?.run();
                dismiss(item.id);
              }}
            >
              {item.action.label}
            </button>
          )}
          <IconButton label="Dismiss" size="small" onClick={() => dismiss(item.id)}>
            <Icon name="close" size={12} />
          </IconButton>
        </div>
      ))}
    </div>
  );
}
