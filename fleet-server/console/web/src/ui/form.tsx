// Forms that lose nothing: what is typed is kept as a draft for this tab (until it is sent or discarded), an error leaves
// everything as it was, and an expired session asks to sign in again in place.
import type { ComponentChildren, JSX } from 'preact';
import { useCallback, useEffect, useMemo, useState } from 'preact/hooks';
import { useUid } from '../lib/hooks';
import { ApiError } from '../lib/problem';
import { actor } from '../lib/session';
import { readJson, writeJson } from '../lib/storage';
import { Button } from './button';
import { CliLine } from './cli';
import { ErrorNote } from './states';

export interface Draft<T> {
  read(): Partial<T> | undefined;
  keep(value: T | undefined): void;
}

/** What is kept of a form, of the person who is signed in now: another one who signs in in the same tab begins afresh. */
export function draftOf<T extends object>(name: string): Draft<T> {
  const key = `draft.${actor() ?? ''}.${name}`;
  return { read: () => readJson<Partial<T>>('session', key), keep: (value) => void writeJson('session', key, value) };
}

/** Like `useState` for an object of fields, kept in sessionStorage under `name`. `discard` forgets it. */
export function useDraft<T extends object>(name: string, initial: T): [T, (patch: Partial<T>) => void, () => void] {
  const draft = useMemo(() => draftOf<T>(name), [name]);
  const [value, setValue] = useState<T>(() => ({ ...initial, ...draft.read() }));
  const set = useCallback(
    (patch: Partial<T>) =>
      setValue((before) => {
        const after = { ...before, ...patch };
        draft.keep(after);
        return after;
      }),
    [draft],
  );
  const discard = useCallback(() => {
    draft.keep(undefined);
    setValue(initial);
    // eslint-disable-next-line -- the initial value is the form's constant
  }, [draft]);
  return [value, set, discard];
}

/** Label, control, help and what is wrong with it. The control takes the props it is given. */
export function Field({
  label,
  help,
  error,
  optional = false,
  children,
}: {
  label: string;
  help?: ComponentChildren;
  error?: string | undefined;
  optional?: boolean;
  children(control: { id: string; 'aria-describedby': string | undefined; 'aria-invalid': 'true' | undefined }): ComponentChildren;
}): JSX.Element {
  const id = useUid('field');
  const described = [help === undefined ? undefined : `${id}-help`, error === undefined ? undefined : `${id}-error`].filter((part) => part !== undefined).join(' ');
  return (
    <div class="field">
      <label for={id}>
        {label}
        {optional ? <span class="muted"> (optional)</span> : null}
      </label>
      {children({ id, 'aria-describedby': described === '' ? undefined : described, 'aria-invalid': error === undefined ? undefined : 'true' })}
      {help === undefined ? null : (
        <p id={`${id}-help`} class="field-help">
          {help}
        </p>
      )}
      {error === undefined ? null : (
        <p id={`${id}-error`} class="field-error">
          ▲ {error}
        </p>
      )}
    </div>
  );
}

/**
 * A form with its button and its command line. `validate` gives messages by field; they appear when the form is sent and
 * then follow the typing. What `onSend` throws is shown above the button; a refusal's items are matched to fields by name.
 */
export function Form<K extends string>({
  children,
  send,
  onSend,
  onCancel,
  validate,
  cli,
  kind = 'primary',
}: {
  children(errors: Partial<Record<K, string>>): ComponentChildren;
  send: string;
  onSend(): Promise<unknown>;
  onCancel?(): void;
  validate?(): Partial<Record<K, string>>;
  cli?: string;
  kind?: 'primary' | 'danger';
}): JSX.Element {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<unknown>(undefined);
  const [tried, setTried] = useState(false);
  const id = useUid('form');
  const own: Partial<Record<string, string>> = tried ? (validate?.() ?? {}) : {};
  const errors = { ...serverErrors(failure), ...own } as Partial<Record<K, string>>;
  useEffect(() => {
    if (!tried || Object.keys(own).length === 0) return;
    document.getElementById(id)?.querySelector<HTMLElement>('[aria-invalid=true]')?.focus();
    // Only when the form was sent: following the typing must not move the focus.
  }, [tried]);
  const submit = async (): Promise<void> => {
    if (busy) return;
    setTried(true);
    if (Object.values(validate?.() ?? {}).some((message) => message !== undefined)) {
      document.getElementById(id)?.querySelector<HTMLElement>('[aria-invalid=true]')?.focus();
      return;
    }
    setBusy(true);
    setFailure(undefined);
    try {
      await onSend();
      setTried(false);
    } catch (error) {
      setFailure(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form
      id={id}
      class="form"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      {children(errors)}
      {failure === undefined ? null : <ErrorNote error={failure} />}
      <div class="form-foot">
        <Button type="submit" kind={kind} busy={busy}>
          {send}
        </Button>
        {onCancel === undefined ? null : <Button onClick={onCancel}>Cancel</Button>}
      </div>
      {cli === undefined ? null : <CliLine line={cli} />}
    </form>
  );
}

function serverErrors(failure: unknown): Partial<Record<string, string>> {
  if (!(failure instanceof ApiError)) return {};
  const entries = (failure.problem.errors ?? []).map((item) => [item.place.split(/[.,[]/)[0] ?? '', item.message] as const);
  return Object.fromEntries(entries.filter(([at]) => at !== ''));
}

/** A line of text; `numeric` asks phones for their number keys. */
export function TextField({
  label,
  help,
  error,
  value,
  numeric = false,
  onChange,
}: {
  label: string;
  help?: string;
  error: string | undefined;
  value: string;
  numeric?: boolean;
  onChange(value: string): void;
}): JSX.Element {
  return (
    <Field label={label} error={error} {...(help === undefined ? {} : { help })}>
      {(control) => (
        <input
          {...control}
          class="input"
          autocomplete="off"
          spellcheck={false}
          {...(numeric ? { inputMode: 'decimal' as const } : {})}
          value={value}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}
