// Modal dialogs on the native `<dialog>`: focus trap, Escape and the top layer are the browser's. Focus goes back to what
// opened it.
import type { ComponentChildren, JSX } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { useUid } from '../lib/hooks';
import { explain } from '../lib/problem';
import { Button } from './button';
import { CliLine } from './cli';

export function Dialog({
  open,
  title,
  onClose,
  children,
  footer,
  width = 'normal',
  dismissable = true,
}: {
  open: boolean;
  title: string;
  onClose(): void;
  children: ComponentChildren;
  footer?: ComponentChildren;
  width?: 'normal' | 'wide';
  /** False: only a button closes it (an expired session). */
  dismissable?: boolean;
}): JSX.Element | null {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useUid('dialog');
  // Before the next key arrives: it belongs to the dialog already.
  useLayoutEffect(() => {
    const dialog = ref.current;
    if (!open || dialog === null) return undefined;
    const opener = document.activeElement;
    dialog.showModal();
    const first = dialog.querySelector<HTMLElement>('[autofocus], .dialog-body input, .dialog-body textarea, .dialog-body select');
    first?.focus();
    return () => {
      dialog.close();
      if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
    };
  }, [open]);
  if (!open) return null;
  return (
    <dialog
      ref={ref}
      class={`dialog ${width}`}
      aria-labelledby={id}
      // A browser lets a dialog refuse one Escape, and closes it at the next; this one does not hear of it.
      onKeyDown={(event) => {
        if (!dismissable && event.key === 'Escape') event.preventDefault();
      }}
      onCancel={(event) => {
        event.preventDefault();
        if (dismissable) onClose();
      }}
      onPointerDown={(event) => {
        if (dismissable && event.target === ref.current) onClose();
      }}
    >
      <div class="dialog-box">
        <h2 id={id} class="dialog-title">
          {title}
        </h2>
        <div class="dialog-body">{children}</div>
        {footer === undefined ? null : <footer class="dialog-footer">{footer}</footer>}
      </div>
    </dialog>
  );
}

/**
 * Asks before something that cannot be taken back. With `typed` the person has to type that text (a name, a count).
 * `onConfirm` may take its time; what it throws is shown in the dialog and nothing is lost.
 */
export function ConfirmDialog({
  open,
  title,
  children,
  typed,
  confirm,
  danger = true,
  cli,
  onConfirm,
  onClose,
}: {
  open: boolean;
  title: string;
  children?: ComponentChildren;
  typed?: string;
  confirm: string;
  danger?: boolean;
  cli?: string;
  onConfirm(): Promise<unknown> | void;
  onClose(): void;
}): JSX.Element | null {
  const [text, setText] = useState('');
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(undefined);
  const field = useUid('typed');
  useEffect(() => {
    if (!open) return;
    setText('');
    setError(undefined);
    setBusy(false);
  }, [open]);
  const ready = typed === undefined || text.trim() === typed;
  const run = async (): Promise<void> => {
    if (!ready || busy) return;
    setBusy(true);
    setError(undefined);
    try {
      await onConfirm();
      onClose();
    } catch (failed) {
      setError(failed);
      setBusy(false);
    }
  };
  return (
    <Dialog
      open={open}
      title={title}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind={danger ? 'danger' : 'primary'} disabled={!ready} busy={busy} onClick={() => void run()}>
            {confirm}
          </Button>
        </>
      }
    >
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          void run();
        }}
      >
        {children}
        {typed === undefined ? null : (
          <div class="field">
            <label for={field}>
              Type <strong class="typed">{typed}</strong> to go on
            </label>
            <input
              id={field}
              class="input"
              value={text}
              autocomplete="off"
              spellcheck={false}
              onInput={(event) => setText(event.currentTarget.value)}
            />
          </div>
        )}
        {error === undefined ? null : (
          <p class="note bad" role="alert">
            {explain(error)}
          </p>
        )}
        {cli === undefined ? null : <CliLine line={cli} />}
      </form>
    </Dialog>
  );
}
