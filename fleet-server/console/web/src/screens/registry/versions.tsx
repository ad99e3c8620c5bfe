// One line: its versions, whether each is signed, what it was made of and where it runs.
import type { JSX } from 'preact';
import { bytes, count, figure, NOTHING, shortDigest } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate } from '../../lib/router';
import type { Params } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Page } from '../../ui/page';
import { Empty } from '../../ui/states';
import { Status } from '../../ui/status';
import { Table } from '../../ui/table';
import type { Column } from '../../ui/table';
import { Ago, Name } from '../../ui/text';
import { RESOURCE, useVersionRows } from './data';
import type { ModelVersion } from './data';
import { NarrowBar, noteOf, NoneMatches, told, useNarrowing } from './narrow';
import { narrowWords, runningTerm } from './words';
import './registry.css';

/** By the name that the list brings along: nothing is asked for each row. */
function RunLink({ version }: { version: ModelVersion }): JSX.Element {
  const { run: id, run_name: name } = version;
  if (id === undefined || id === null) return <span class="muted">imported</span>;
  return (
    <Link tabIndex={-1} href={href('/runs/:id', { id })}>
      {name === undefined || name === null ? (
        <code>{shortDigest(id, 8)}</code>
      ) : (
        <>
          <bdi>{name.experiment}</bdi> <span class="num">seed {name.seed}</span>
        </>
      )}
    </Link>
  );
}

function DatasetVersionLink({ version }: { version: ModelVersion }): JSX.Element {
  const { dataset_version: id, dataset_version_name: name } = version;
  if (id === undefined || id === null) return <span class="muted">{NOTHING}</span>;
  if (name === undefined || name === null) return <code title={id}>{shortDigest(id, 8)}</code>;
  return (
    <Link class="registry-made" tabIndex={-1} href={href('/datasets/:id', { id: name.dataset }, { version: id })}>
      <Name value={name.name} /> <span class="muted num">v{name.number}</span>
    </Link>
  );
}

export default function Versions({ params }: { params: Params }): JSX.Element {
  const line = params.line ?? '';
  const by = useNarrowing();
  const rows = told(useVersionRows(line, by.narrow), by);
  const listed = cli('models', 'versions', line, ...narrowWords(by.narrow));
  const build = can('build');
  const making = href('/model-versions/new', {}, { line });
  useShortcuts(() => (build ? [{ keys: 'n', label: 'Make a package of a run', group: 'Registry', run: () => navigate(making) }] : []), [build, making]);
  const columns: readonly Column<ModelVersion>[] = [
    {
      id: 'version',
      header: 'Version',
      width: 'minmax(88px, .8fr)',
      cell: (version) => (
        <Link class="row-link strong num" tabIndex={-1} href={href('/model-versions/:id', { id: version.id })}>
          {version.semver}
        </Link>
      ),
    },
    { id: 'signature', header: 'Signature', width: 'minmax(104px, .8fr)', cell: (version) => <Status value={version.signature} /> },
    {
      id: 'devices',
      header: 'Devices',
      width: 'minmax(80px, .6fr)',
      align: 'end',
      cell: (version) => (
        <Link tabIndex={-1} href={href('/devices', {}, { filter: runningTerm(line, version.semver) })}>
          {count(version.devices ?? 0)}
        </Link>
      ),
    },
    {
      id: 'run',
      header: 'Made of run',
      width: 'minmax(150px, 1.4fr)',
      priority: 2,
      cell: (version) => <RunLink version={version} />,
    },
    {
      id: 'data',
      header: 'Dataset version',
      width: 'minmax(120px, 1fr)',
      priority: 2,
      cell: (version) => <DatasetVersionLink version={version} />,
    },
    { id: 'golden', header: 'Golden difference', width: 'minmax(124px, .9fr)', align: 'end', priority: 3, cell: (version) => figure(version.golden_max_diff, 2) },
    { id: 'size', header: 'Size', width: 'minmax(76px, .6fr)', align: 'end', priority: 3, cell: (version) => bytes(version.package_bytes) },
    {
      id: 'created',
      header: 'Made',
      width: 'minmax(72px, .6fr)',
      align: 'end',
      priority: 2,
      cell: (version) => (
        <span class="muted">
          <Ago time={version.created_at} />
        </span>
      ),
    },
  ];
  return (
    <Page
      title={<bdi>{line}</bdi>}
      back={{ href: '/models', label: 'Registry' }}
      note={noteOf(rows, by, 'version')}
      fill
      actions={
        build ? (
          <Link class="button primary" href={making}>
            New package
          </Link>
        ) : undefined
      }
    >
      <p class="muted">
        Release role <code>release/{line}</code>: its keys sign what devices may run.
      </p>
      <NarrowBar by={by} label="Filter versions" placeholder="Filter: signature:signed 1.2" line={listed} />
      <Table
        label={`Versions of ${line}`}
        rows={rows}
        columns={columns}
        rowId={(version) => version.id}
        rowName={(version) => version.semver}
        resource={RESOURCE}
        onOpen={(version) => navigate(href('/model-versions/:id', { id: version.id }))}
        question={`${line} ${JSON.stringify(by.narrow)}`}
        empty={
          by.text.trim() !== '' ? (
            <NoneMatches by={by} line={listed}>
              No version of this line matches this filter.
            </NoneMatches>
          ) : (
            <Empty
              action={
                build ? (
                  <Link class="button primary" href={making}>
                    Make the first package
                  </Link>
                ) : undefined
              }
              cli={`${cli('models', 'package', line)} --run ID --semver 1.0.0`}
            >
              This line has no versions yet.
            </Empty>
          )
        }
      />
    </Page>
  );
}
