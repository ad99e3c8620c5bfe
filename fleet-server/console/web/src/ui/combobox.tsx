// A text input with a list of suggestions below it (WAI-ARIA combobox, list autocomplete). FilterInput is the one for lists;
// ComboBox chooses one of many options, found on the server or here.
import type { JSX, RefObject } from 'preact';
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Field, Suggestion } from '../lib/filter';
import { problems, suggest } from '../lib/filter';
import { useShortcuts } from '../lib/keys';
import { useUid } from '../lib/hooks';
import { placePopover } from './menu';
import { KeyHint } from './text';

interface Option {
  key: string;
  label: string;
  help?: string | undefined;
}

function Listbox({
  id,
  options,
  active,
  anchor,
  onChoose,
  label,
}: {
  id: string;
  options: readonly Option[];
  active: number;
  anchor: RefObject<HTMLElement>;
  onChoose(index: number): void;
  label: string;
}): JSX.Element {
  const ref = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const list = ref.current;
    if (list === null || anchor.current === null) return;
    if (options.length === 0) {
      if (list.matches(':popover-open')) list.hidePopover();
      return;
    }
    if (!list.matches(':popover-open')) list.showPopover();
    placePopover(anchor.current, list, 'start');
  }, [options, anchor]);
  useEffect(() => {
    ref.current?.querySelector('[aria-selected=true]')?.scrollIntoView({ block: 'nearest' });
  }, [active]);
  return (
    <div ref={ref} id={id} popover="manual" class="popover listbox" role="listbox" aria-label={label}>
      {options.map((option, index) => (
        <div
          key={option.key}
          id={`${id}-${index}`}
          role="option"
          aria-selected={index === active}
          onPointerDown={(event) => {
            event.preventDefault();
            onChoose(index);
          }}
        >
          <bdi>{option.label}</bdi>
          {option.help === undefined ? null : <span class="muted">{option.help}</span>}
        </div>
      ))}
    </div>
  );
}

/** Keys of an open list. Gives the new active index, `'choose'`, `'close'` or nothing. */
function listKey(event: KeyboardEvent, active: number, length: number): number | 'choose' | 'close' | undefined {
  if (length === 0) return undefined;
  if (event.key === 'ArrowDown') return (active + 1) % length;
  if (event.key === 'ArrowUp') return (active <= 0 ? length : active) - 1;
  if ((event.key === 'Enter' || event.key === 'Tab') && active >= 0) return 'choose';
  if (event.key === 'Escape') return 'close';
  return undefined;
}

/** The filter of a list: `/` jumps to it, fields and values are suggested, mistakes are said below it. */
export function FilterInput({
  value,
  onChange,
  fields,
  label,
  placeholder,
}: {
  value: string;
  onChange(text: string): void;
  fields: readonly Field[];
  label: string;
  placeholder: string;
}): JSX.Element {
  const input = useRef<HTMLInputElement>(null);
  const [open, setOpen] = useState(false);
  const [active, setActive] = useState(-1);
  const [caret, setCaret] = useState(0);
  const [draft, setDraft] = useState(value);
  // What was typed and has not come back as `value` yet: somebody who types fast is ahead of the address.
  const sent = useRef<string[]>([]);
  const id = useUid('filter');
  useEffect(() => {
    const at = sent.current.lastIndexOf(value);
    if (at >= 0) {
      sent.current = sent.current.slice(at + 1);
      return;
    }
    // From outside: a saved view, Back.
    sent.current = [];
    setDraft(value);
  }, [value]);
  useShortcuts(
    () => [
      {
        keys: '/',
        label: 'Filter the list',
        group: 'List',
        run: () => {
          input.current?.focus();
          input.current?.select();
        },
      },
    ],
    [],
  );
  const options: Suggestion[] = useMemo(() => (open ? suggest(draft, caret, fields) : []), [open, draft, caret, fields]);
  const wrong = problems(draft)[0];
  const change = (text: string): void => {
    setDraft(text);
    if (text !== value) sent.current.push(text);
    onChange(text);
  };
  const choose = (index: number): void => {
    const chosen = options[index];
    if (chosen === undefined) return;
    const text = draft.slice(0, chosen.from) + chosen.insert + draft.slice(chosen.to).trimStart();
    const at = chosen.from + chosen.insert.length;
    // In the field itself: what is typed before the next frame goes behind it.
    if (input.current !== null) {
      input.current.value = text;
      input.current.setSelectionRange(at, at);
    }
    change(text);
    setCaret(at);
    setActive(-1);
  };
  return (
    <div class="filter">
      <div class="filter-box">
        <input
          ref={input}
          type="search"
          class="input"
          role="combobox"
          aria-label={label}
          aria-expanded={options.length > 0}
          aria-controls={id}
          aria-autocomplete="list"
          aria-activedescendant={active >= 0 ? `${id}-${active}` : undefined}
          aria-invalid={wrong === undefined ? undefined : 'true'}
          aria-describedby={wrong === undefined ? undefined : `${id}-wrong`}
          placeholder={placeholder}
          autocomplete="off"
          spellcheck={false}
          value={draft}
          onFocus={() => setOpen(true)}
          onBlur={() => {
            setOpen(false);
            setActive(-1);
          }}
          onInput={(event) => {
            setCaret(event.currentTarget.selectionStart ?? 0);
            setActive(-1);
            setOpen(true);
            change(event.currentTarget.value);
          }}
          onClick={(event) => {
            setCaret(event.currentTarget.selectionStart ?? 0);
            setOpen(true);
          }}
          onKeyDown={(event) => {
            const key = listKey(event, active, options.length);
            if (key === 'choose') {
              event.preventDefault();
              choose(active);
            } else if (key === 'close') {
              event.preventDefault();
              setOpen(false);
              setActive(-1);
            } else if (key !== undefined) {
              event.preventDefault();
              setActive(key);
            } else if (event.key === 'Escape') {
              event.preventDefault();
              if (draft !== '') change('');
              else input.current?.blur();
            } else if (event.key === 'Enter') {
              setOpen(false);
              // From the filter straight into the rows.
              document.querySelector<HTMLElement>('[role=grid]')?.focus();
            }
          }}
        />
        {draft === '' ? <KeyHint keys="/" /> : null}
      </div>
      {wrong === undefined ? null : (
        <p id={`${id}-wrong`} class="field-error">
          {wrong.message}
        </p>
      )}
      <Listbox id={id} options={options.map((option) => ({ key: option.label, label: option.label, help: option.help }))} active={active} anchor={input} onChoose={choose} label="Suggestions" />
    </div>
  );
}

export interface Choice {
  value: string;
  label: string;
  help?: string;
}

/** Most options that are listed at a time; typing narrows to the others. */
const MOST_OPTIONS = 50;

export interface ComboState {
  open: boolean;
  /** What Enter would choose; -1: nothing. */
  active: number;
  /** Options that match what is typed. */
  length: number;
  /** Of these, the one that is chosen already; -1: none. */
  chosen: number;
  typed: boolean;
}

/**
 * What a key does to a combobox: the option that is active in the list, which is open then; `'choose'` the active one; `'close'`;
 * `'hold'`: nothing, and nothing else either. Undefined: it is not for the list.
 */
export function comboKey({ key, altKey }: Pick<KeyboardEvent, 'key' | 'altKey'>, { open, active, length, chosen, typed }: ComboState): number | 'choose' | 'close' | 'hold' | undefined {
  if (key === 'Escape') return open || typed ? 'close' : undefined;
  if (key === 'Tab') return open && active >= 0 ? 'choose' : undefined;
  // An open list takes Enter in any case: whoever chooses does not send the form.
  if (key === 'Enter') return !open ? undefined : active >= 0 ? 'choose' : typed ? 'hold' : 'close';
  if (key !== 'ArrowDown' && key !== 'ArrowUp') return undefined;
  if (altKey) return key === 'ArrowUp' ? (open ? 'close' : 'hold') : open ? 'hold' : -1;
  if (length === 0) return 'hold';
  if (!open) return chosen >= 0 ? chosen : key === 'ArrowDown' ? 0 : length - 1;
  return key === 'ArrowDown' ? (active + 1) % length : (active <= 0 ? length : active) - 1;
}

/**
 * One of many: shows what is chosen, and the list on a click, an arrow or typing, which narrows it. `onSearch` when the server
 * does the narrowing. `acts`: choosing does something at once, so that only Enter and a click choose; leaving the field does not.
 */
export function ComboBox({
  id: given,
  value,
  options,
  onChange,
  onSearch,
  placeholder,
  label,
  disabled = false,
  acts = false,
}: {
  id?: string;
  value: string;
  options: readonly Choice[];
  onChange(value: string): void;
  onSearch?(text: string): void;
  placeholder?: string;
  label?: string;
  disabled?: boolean;
  acts?: boolean;
}): JSX.Element {
  const input = useRef<HTMLInputElement>(null);
  const own = useUid('combo');
  /** Undefined: nothing is typed, and the field shows what is chosen. */
  const [text, setText] = useState<string | undefined>(undefined);
  /** The same, known before the next frame. */
  const typing = useRef(false);
  const [open, setOpen] = useState(false);
  const [active, setActive] = useState(-1);
  const matching = useMemo(() => {
    const wanted = (text ?? '').trim().toLowerCase();
    return options.filter((option) => onSearch !== undefined || option.label.toLowerCase().includes(wanted)).slice(0, MOST_OPTIONS);
  }, [text, options, onSearch]);
  const shown = open ? matching : [];
  // What the server narrows may have become fewer.
  const at = Math.min(active, shown.length - 1);
  const selected = options.find((option) => option.value === value);
  // Typing replaces what is chosen, after another choice as well.
  useLayoutEffect(() => {
    if (text === undefined && document.activeElement === input.current) input.current?.select();
  }, [text, value]);
  const show = (index: number): void => {
    if (!open) onSearch?.(text ?? '');
    setOpen(true);
    setActive(index);
  };
  const close = (): void => {
    typing.current = false;
    setText(undefined);
    setOpen(false);
    setActive(-1);
  };
  const choose = (index: number): void => {
    const option = shown[index];
    if (option === undefined) return;
    onChange(option.value);
    close();
  };
  return (
    <>
      <input
        ref={input}
        id={given}
        class="input"
        role="combobox"
        aria-label={label}
        aria-expanded={shown.length > 0}
        aria-controls={own}
        aria-autocomplete="list"
        aria-activedescendant={at >= 0 ? `${own}-${at}` : undefined}
        placeholder={placeholder}
        autocomplete="off"
        spellcheck={false}
        disabled={disabled}
        value={text ?? selected?.label ?? value}
        onFocus={(event) => event.currentTarget.select()}
        onBlur={close}
        onClick={(event) => {
          // The press has put the caret where it was pressed.
          if (text === undefined) event.currentTarget.select();
          show(open ? active : -1);
        }}
        onInput={(event) => {
          typing.current = true;
          setText(event.currentTarget.value);
          setOpen(true);
          setActive(0);
          onSearch?.(event.currentTarget.value);
        }}
        onKeyDown={(event) => {
          // Typing replaces what is chosen, wherever a click has put the caret.
          if (!typing.current && event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) event.currentTarget.select();
          // A key that picks a character is not one that picks an option.
          if (event.isComposing || (acts && event.key === 'Tab')) return;
          const done = comboKey(event, { open, active: at, length: matching.length, chosen: text === undefined ? matching.findIndex((option) => option.value === value) : -1, typed: text !== undefined });
          if (done === undefined) return;
          if (done === 'choose') choose(at);
          else if (done === 'close') close();
          else if (done !== 'hold') show(done);
          // Tab goes on to the next field, unless choosing has moved the focus already.
          if (event.key !== 'Tab' || document.activeElement !== input.current) event.preventDefault();
        }}
      />
      <Listbox id={own} options={shown.map((option) => ({ key: option.value, label: option.label, help: option.help }))} active={at} anchor={input} onChoose={choose} label={label ?? 'Options'} />
    </>
  );
}
