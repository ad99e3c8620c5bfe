// The registry: the lines of models, what is newest of each and how many devices run it.
import type { JSX } from 'preact';
import { count, NOTHING } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate } from '../../lib/router';
import { can } from '../../lib/session';
import { useCommands } from '../../ui/palette';
import { cli } from '../../lib/shell';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { useLineRows } from './data';
import type { Model } from './data';
import { NarrowBar, noteOf, NoneMatches, told, useNarrowing } from './narrow';
import { narrowWords, runningTerm } from './words';
import './registry.css';

/** Versions in use, the most used first, as parts of one bar with words beside it. */
function InUse({ model }: { model: Model }): JSX.Element {
  if (model.in_use.length === 0) return <span class="muted">on no device</span>;
  const told = model.in_use.slice(0, 3);
  const more = model.versions_in_use - told.length;
  return (
    <span class="registry-use">
      <span class="registry-spread" aria-hidden="true">
        {model.in_use.map((part, index) => (
          <i key={part.semver} class={`s${index + 1}`} style={{ flexGrow: String(part.devices) }} />
        ))}
      </span>
      <span class="num">
        {told.map((part) => `${part.semver} on ${count(part.devices)}`).join(', ')}
        {more > 0 ? <span class="muted"> and {count(more)} more</span> : null}
      </span>
    </span>
  );
}

export default function Lines(): JSX.Element {
  const by = useNarrowing();
  const rows = told(useLineRows(by.narrow), by);
  const listed = cli('models', 'list', ...narrowWords(by.narrow));
  const columns: readonly Column<Model>[] = [
    {
      id: 'line',
      header: 'Line',
      width: 'minmax(140px, 1.4fr)',
      cell: (model) => (
        <Link class="row-link" tabIndex={-1} href={href('/models/:line', { line: model.line })}>
          <Name value={model.line} strong />
        </Link>
      ),
    },
    { id: 'latest', header: 'Latest version', width: 'minmax(100px, .8fr)', mono: true, cell: (model) => model.latest ?? <span class="muted">{NOTHING}</span> },
    {
      id: 'versions',
      header: 'Versions',
      width: 'minmax(112px, .8fr)',
      align: 'end',
      cell: (model) => (
        <span class="num">
          {count(model.versions)}
          {(model.unsigned ?? 0) === 0 ? null : <span class="muted"> ○ {count(model.unsigned)} unsigned</span>}
        </span>
      ),
    },
    { id: 'use', header: 'On devices', width: 'minmax(180px, 2.4fr)', priority: 2, cell: (model) => <InUse model={model} /> },
    {
      id: 'devices',
      header: 'Devices',
      width: 'minmax(80px, .5fr)',
      align: 'end',
      cell: (model) => (
        <Link tabIndex={-1} href={href('/devices', {}, { filter: runningTerm(model.line) })}>
          {count(model.devices)}
        </Link>
      ),
    },
    {
      id: 'created',
      header: 'Begun',
      width: 'minmax(84px, .6fr)',
      align: 'end',
      priority: 2,
      cell: (model) => (
        <span class="muted">
          <Ago time={model.created_at} />
        </span>
      ),
    },
  ];
  const build = can('build');
  useShortcuts(() => (build ? [{ keys: 'n', label: 'Make a package of a run', group: 'Registry', run: () => navigate('/model-versions/new') }] : []), [build]);
  useCommands(
    () => (build ? [{ label: 'Make a package of a run', group: 'Registry', icon: 'plus' as const, keys: 'n', run: () => navigate('/model-versions/new') }] : []),
    [build],
  );
  return (
    <Page
      title="Registry"
      note={noteOf(rows, by, 'model line')}
      fill
      actions={
        build ? (
          <Link class="button primary" href="/model-versions/new">
            New package
          </Link>
        ) : undefined
      }
    >
      <p class="muted">A line is one task with its versions. Devices take only what the line’s release keys have signed.</p>
      <NarrowBar by={by} label="Filter model lines" placeholder="Filter: signature:unsigned motions" line={listed} />
      <Table
        label="Model lines"
        rows={rows}
        columns={columns}
        rowId={(model) => model.line}
        onOpen={(model) => navigate(href('/models/:line', { line: model.line }))}
        question={JSON.stringify(by.narrow)}
        empty={
          by.text.trim() !== '' ? (
            <NoneMatches by={by} line={listed}>
              No model line matches this filter.
            </NoneMatches>
          ) : (
            <Empty
              action={
                build ? (
                  <Link class="button primary" href="/model-versions/new">
                    Make the first package
                  </Link>
                ) : undefined
              }
              cli="fleetctl models package LINE --run ID --semver 1.0.0"
            >
              The registry is empty: a package is made of a finished run, then signed, then rolled out.
            </Empty>
          )
        }
      />
    </Page>
  );
}
