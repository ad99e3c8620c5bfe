// The tags of a device: shown, and edited as lines of name=value.
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import { cli } from '../../lib/shell';
import { Dialog } from '../../ui/dialog';
import { Field, Form, useDraft } from '../../ui/form';
import { toast } from '../../ui/toast';
import { parseTagLines, printTagLines, tagWords } from '../provisioning/tags';
import { useSetTags } from './data';

export function TagList({ tags }: { tags: Readonly<Record<string, string>> }): JSX.Element {
  const entries = Object.entries(tags);
  if (entries.length === 0) return <span class="muted">none</span>;
  return (
    <span class="tags device-tags">
      {entries.map(([name, value]) => (
        <bdi key={name} class="tag" title={`${name}=${value}`}>
          {value === '' ? (
            name
          ) : (
            <>
              <b>{name}</b>
              {value}
            </>
          )}
        </bdi>
      ))}
    </span>
  );
}

export function TagsDialog({ id, tags, open, onClose }: { id: string; tags: Readonly<Record<string, string>>; open: boolean; onClose(): void }): JSX.Element {
  const [draft, setDraft, discard] = useDraft(`tags.${id}`, { lines: undefined as string | undefined });
  const set = useSetTags(id);
  const lines = draft.lines ?? printTagLines(tags);
  const parsed = parseTagLines(lines);
  useEffect(() => {
    // A draft that says what is there already is none.
    if (open && draft.lines === printTagLines(tags)) discard();
  }, [open]);
  return (
    <Dialog open={open} title="Tags" onClose={onClose}>
      <Form<'tags'>
        send="Save the tags"
        onCancel={() => {
          discard();
          onClose();
        }}
        cli={cli('devices', 'tag', id, ...tagWords(parsed.tags))}
        validate={() => (parsed.wrong === undefined ? {} : { tags: parsed.wrong })}
        onSend={async () => {
          await set.mutateAsync(parsed.tags);
          discard();
          toast('The tags are saved');
          onClose();
        }}
      >
        {(errors) => (
          <Field label="Tags" help="One name=value per line. These replace the tags that the device has." error={errors.tags}>
            {(control) => <textarea {...control} class="input mono" rows={6} value={lines} onInput={(event) => setDraft({ lines: event.currentTarget.value })} />}
          </Field>
        )}
      </Form>
    </Dialog>
  );
}
