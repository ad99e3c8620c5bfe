// A place to drop a file on, which is also the label of a file input: the keyboard picks one as well.
import type { JSX } from 'preact';
import { useState } from 'preact/hooks';
import { useUid } from '../../lib/hooks';

export function FilePicker({ label, help, onPick }: { label: string; help?: string; onPick(file: File): void }): JSX.Element {
  const [over, setOver] = useState(false);
  const [several, setSeveral] = useState(false);
  const id = useUid('file');
  const take = (files: FileList | null | undefined): void => {
    setSeveral((files?.length ?? 0) > 1);
    const first = files?.[0];
    if (first !== undefined && files?.length === 1) onPick(first);
  };
  return (
    <label
      for={id}
      class={over ? 'datasets-drop over' : 'datasets-drop'}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        take(event.dataTransfer?.files);
      }}
    >
      <input
        id={id}
        type="file"
        class="visually-hidden"
        accept=".csv,.txt,text/csv,text/plain"
        onChange={(event) => {
          take(event.currentTarget.files);
          // The same file again, corrected meanwhile, is a change too.
          event.currentTarget.value = '';
        }}
      />
      <svg width="28" height="28" viewBox="0 0 28 28" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
        <path d="M14 18V5M9 10l5-5 5 5M4 18v4.500c0 .8.7 1.500 1.500 1.500h17c.8 0 1.500-.7 1.500-1.500V18" />
      </svg>
      <span class="strong">{label}</span>
      {help === undefined ? null : <span class="muted">{help}</span>}
      {several ? <span class="bad">▲ One file at a time, please.</span> : null}
    </label>
  );
}
