// Saved views of the device list: a name for a filter and an order, kept in this browser.
import type { JSX } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { useStore } from '../../lib/store';
import { Dialog } from '../../ui/dialog';
import { Field, Form } from '../../ui/form';
import { Icon } from '../../ui/icon';
import { Menu } from '../../ui/menu';
import { toast } from '../../ui/toast';
import { forgetView, ownViews, saveView, watchViews } from './views-store';
import type { View } from './views-store';

const BUILT_IN: readonly View[] = [
  { name: 'All devices', filter: '', sort: 'id' },
  { name: 'Needs attention', filter: 'status:alert', sort: '-drift' },
  { name: 'Gone quiet', filter: 'status:offline', sort: 'last_seen' },
];

export function SavedViews({ filter, sort, onChoose }: { filter: string; sort: string; onChoose(view: { filter: string; sort: string }): void }): JSX.Element {
  const own = useStore(ownViews);
  useEffect(watchViews, []);
  const [naming, setNaming] = useState(false);
  const [name, setName] = useState('');
  const say = (kept: boolean): void => {
    if (!kept) toast('This browser keeps no views: its storage is switched off or full');
  };
  const all = [...BUILT_IN, ...own];
  const current = all.find((view) => view.filter === filter && view.sort === sort);
  const removable = own.find((view) => view.name === current?.name);
  return (
    <>
      <Menu
        label={`Views${current === undefined ? '' : `: ${current.name}`}`}
        items={[
          ...all.map((view) => ({ label: view.name, checked: view === current, run: () => onChoose({ filter: view.filter, sort: view.sort }) })),
          ...(current === undefined
            ? [
                {
                  label: 'Save this view…',
                  icon: 'plus' as const,
                  run: () => {
                    setName('');
                    setNaming(true);
                  },
                },
              ]
            : []),
          ...(removable === undefined ? [] : [{ label: `Forget “${removable.name}”`, icon: 'close' as const, run: () => say(forgetView(removable.name)) }]),
        ]}
      >
        <Icon name="star" />
        <bdi>{current?.name ?? 'Views'}</bdi>
        <Icon name="down" size={12} />
      </Menu>
      <Dialog open={naming} title="Save this view" onClose={() => setNaming(false)}>
        <Form<'name'>
          send="Save"
          onCancel={() => setNaming(false)}
          validate={() => (name.trim() === '' ? { name: 'Give it a name.' } : all.some((view) => view.name === name.trim()) ? { name: 'There is a view of this name.' } : {})}
          onSend={() => {
            say(saveView({ name: name.trim(), filter, sort }));
            setNaming(false);
            return Promise.resolve();
          }}
        >
          {(errors) => (
            <Field label="Name" error={errors.name}>
              {(control) => <input {...control} class="input" maxLength={60} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
            </Field>
          )}
        </Form>
      </Dialog>
    </>
  );
}
