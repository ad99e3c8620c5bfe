// The tags of a device: shown, and edited as lines of name=value. Two who edit the same device lose nothing of each other.
import type { JSX } from 'preact';
import { useEffect } from 'preact/hooks';
import { cli } from '../../lib/shell';
import { Dialog } from '../../ui/dialog';
import { Field, Form, useDraft } from '../../ui/form';
import { toast } from '../../ui/toast';
import { parseTagLines, printTagLines, tagWords } from '../provisioning/tags';
import { useTagChange } from './data';
import type { Tags } from './tag-change';
import { applied, changeOf, clashes, isNothing } from './tag-change';

export function TagList({ tags }: { tags: Tags }): JSX.Element {
  const entries = Object.entries(tags);
  if (entries.length === 0) return <span class="muted">none</span>;
  return (
    <span class="tags device-tags">
      {entries.map(([name, value]) => (
        <bdi key={name} class="tag">
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

interface TagsDraft {
  lines: string | undefined;
  /** The tags as they were when the draft was begun: what is sent is what it changes of them. */
  base: Tags | undefined;
}

const NO_DRAFT: TagsDraft = { lines: undefined, base: undefined };

export function TagsDialog({ id, tags, open, onClose }: { id: string; tags: Tags; open: boolean; onClose(): void }): JSX.Element {
  const [draft, setDraft, discard] = useDraft<TagsDraft>(`tags.${id}`, NO_DRAFT);
  const send = useTagChange(id);
  const base = draft.base ?? tags;
  const lines = draft.lines ?? printTagLines(tags);
  const parsed = parseTagLines(lines);
  const change = changeOf(base, parsed.tags);
  const others = parsed.wrong === undefined ? clashes(base, tags, change) : [];
  useEffect(() => {
    // A draft that changes nothing is none.
    if (open && draft.lines !== undefined && parsed.wrong === undefined && isNothing(change)) discard();
  }, [open]);
  return (
    <Dialog open={open} title="Tags" onClose={onClose}>
      <Form<'tags'>
        send="Save the tags"
        onCancel={() => {
          discard();
          onClose();
        }}
        cli={cli('devices', 'tag', id, ...tagWords(change.set), ...change.remove.flatMap((name) => ['--remove', name]), '--keep')}
        validate={() => (parsed.wrong === undefined ? {} : { tags: parsed.wrong })}
        onSend={async () => {
          if (!isNothing(change)) {
            await send.mutateAsync({ change, seen: { ...base } });
            toast('The tags are saved');
          }
          discard();
          onClose();
        }}
      >
        {(errors) => (
          <>
            <Field label="Tags" help="One name=value per line. Tags that you leave as they are stay as they are." error={errors.tags}>
              {(control) => (
                <textarea {...control} class="input mono" rows={6} value={lines} onInput={(event) => setDraft({ lines: event.currentTarget.value, base })} />
              )}
            </Field>
            {others.length === 0 ? null : (
              <div class="note bad stack-small" role="alert">
                <p>
                  ▲ Changed by somebody else since you began:{' '}
                  {others.map((clash) => (
                    <bdi key={clash.name} class="tag">
                      <b>{clash.name}</b>
                      {clash.now ?? 'removed'}
                    </bdi>
                  ))}
                </p>
                <div class="row">
                  <button type="button" class="link" onClick={discard}>
                    Take theirs and start again
                  </button>
                  <button type="button" class="link" onClick={() => setDraft({ base: tags, lines: printTagLines(applied(tags, change)) })}>
                    Put mine over theirs
                  </button>
                </div>
              </div>
            )}
          </>
        )}
      </Form>
    </Dialog>
  );
}
