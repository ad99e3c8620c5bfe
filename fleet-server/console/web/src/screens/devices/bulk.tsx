// What the selection bar does: tags on many devices, decommissioning many. Both run on the server as a job.
import type { JSX } from 'preact';
import { plural } from '../../lib/format';
import type { Selection } from '../../lib/selection';
import { selectedCount } from '../../lib/selection';
import { quoteValue } from '../../lib/filter';
import { cli, shellQuote } from '../../lib/shell';
import { ConfirmDialog, Dialog } from '../../ui/dialog';
import { Field, Form, useDraft } from '../../ui/form';
import { parseTagChange, tagWords } from '../provisioning/tags';
import { target, useBulk } from './data';
import type { BulkAction } from './data';

export type BulkKind = 'tag' | 'decommission';

/** One line for a filter; devices chosen one by one are a loop, because a filter cannot name several. */
export function line(action: BulkAction, selection: Selection, filter: string, total: number): string {
  const whom = target(selection, filter);
  const what =
    action === 'decommission'
      ? []
      : [...tagWords(action.tag.set ?? {}), ...(action.tag.remove ?? []).flatMap((key) => ['--remove', key])];
  const words = ['devices', action === 'decommission' ? 'decommission' : 'tag'];
  if ('filter' in whom) return cli(...words, ...what, '--filter', whom.filter, '--expect', selectedCount(selection, total), '--yes');
  const [only] = whom.ids;
  if (whom.ids.length === 1 && only !== undefined) return cli(...words, ...what, '--filter', `id:${quoteValue(only)}`, '--expect', 1, '--yes');
  return `for d in ${whom.ids.map((id) => shellQuote(quoteValue(id))).join(' ')}; do ${cli(...words, ...what)} --filter "id:$d" --expect 1 --yes; done`;
}

export function BulkDialogs({
  kind,
  selection,
  filter,
  total,
  onClose,
  onStarted,
}: {
  kind: BulkKind | undefined;
  selection: Selection;
  filter: string;
  total: number;
  onClose(): void;
  /** The server has taken the order: its job. */
  onStarted(job: string): void;
}): JSX.Element {
  const bulk = useBulk(filter, total);
  const selected = selectedCount(selection, total);
  const [{ tags }, setDraft, discard] = useDraft('bulk-tags', { tags: '' });
  const parsed = parseTagChange(tags);
  const tag: BulkAction = { tag: { set: parsed.set, remove: parsed.remove } };
  return (
    <>
      <Dialog open={kind === 'tag'} title={`Tag ${plural(selected, 'device')}`} onClose={onClose}>
        <Form<'tags'>
          send={`Tag ${plural(selected, 'device')}`}
          onCancel={() => {
            discard();
            onClose();
          }}
          cli={line(tag, selection, filter, total)}
          validate={() => (parsed.wrong === undefined ? {} : { tags: parsed.wrong })}
          onSend={async () => {
            const job = await bulk.mutateAsync({ selection, action: tag });
            discard();
            onStarted(job.id);
          }}
        >
          {(errors) => (
            <Field label="Tags" help="One per line: name=value sets a tag, -name removes one; others stay." error={errors.tags}>
              {(control) => <textarea {...control} class="input mono" rows={3} placeholder={'site=Oslo 1\n-old'} value={tags} onInput={(event) => setDraft({ tags: event.currentTarget.value })} />}
            </Field>
          )}
        </Form>
      </Dialog>
      <ConfirmDialog
        open={kind === 'decommission'}
        title={`Decommission ${plural(selected, 'device')}?`}
        typed={String(selected)}
        confirm="Decommission"
        cli={line('decommission', selection, filter, total)}
        onClose={onClose}
        onConfirm={async () => {
          const job = await bulk.mutateAsync({ selection, action: 'decommission' });
          onStarted(job.id);
        }}
      >
        <p>Their connections are cut and their certificates refused for good. This cannot be taken back.</p>
      </ConfirmDialog>
    </>
  );
}
