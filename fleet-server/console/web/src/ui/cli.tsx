// The same thing on the command line. Every action of the console shows its line; it is quoted for a POSIX shell.
import type { JSX } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { shortDigest } from '../lib/format';
import { Icon } from './icon';

async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without a secure context there is no clipboard API; a selection still copies.
    const area = document.createElement('textarea');
    area.value = text;
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

export function CopyButton({ text, label = 'Copy' }: { text: string; label?: string }): JSX.Element {
  const [state, setState] = useState<'idle' | 'done' | 'failed'>('idle');
  useEffect(() => {
    if (state === 'idle') return undefined;
    const timer = setTimeout(() => setState('idle'), 1600);
    return () => clearTimeout(timer);
  }, [state]);
  const says = state === 'done' ? 'Copied' : state === 'failed' ? 'Select it and copy by hand' : label;
  return (
    <button
      type="button"
      class="copy"
      aria-label={says}
      title={says}
      onClick={async (event) => {
        event.stopPropagation();
        setState((await copyText(text)) ? 'done' : 'failed');
      }}
    >
      <Icon name={state === 'done' ? 'check' : 'copy'} size={14} />
    </button>
  );
}

/** Words as a shell reads them, and what stands between them. */
const WORDS = /(?:'[^']*'|\\.|[^\s'])+|\s+|'/g;

/**
 * Each word is kept apart and, where there is room for it, whole: one that is written from right to left turns none of the others
 * around, and no line ends within `--target`.
 */
function Words({ line }: { line: string }): JSX.Element {
  const words = line.match(WORDS) ?? [line];
  const box = useRef<HTMLElement>(null);
  // A line that does not fit scrolls, by keys too.
  useEffect(() => {
    const element = box.current;
    if (element === null) return undefined;
    const look = (): void => {
      element.tabIndex = element.scrollHeight > element.clientHeight + 1 ? 0 : -1;
    };
    look();
    const observer = new ResizeObserver(look);
    observer.observe(element);
    return () => observer.disconnect();
  }, [line]);
  return <code ref={box}>{words.map((word, index) => (word.trim() === '' ? word : <bdi key={index}>{word}</bdi>))}</code>;
}

/** `<CliLine line={cli('devices', 'show', id)} />`, with `cli` from lib/shell. */
export function CliLine({ line, label }: { line: string; label?: string }): JSX.Element {
  return (
    <div class="cli" role="group" aria-label={label ?? 'Command line'}>
      <span class="cli-prompt" aria-hidden="true">
        $
      </span>
      <Words line={line} />
      <CopyButton text={line} label="Copy the command" />
    </div>
  );
}

/** A digest, id or key: shortened, copied whole by its button, which says the whole too. */
export function Code({ value, short = true, label = 'Copy' }: { value: string; short?: boolean; label?: string }): JSX.Element {
  return (
    <span class="code">
      <code title={value}>{short ? shortDigest(value) : value}</code>
      <CopyButton text={value} label={`${label}: ${value}`} />
    </span>
  );
}
