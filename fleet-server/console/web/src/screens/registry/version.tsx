// One model version: whether it may go out, where it came from and where it went, what is in it, and how it is signed.
import type { ComponentChildren, JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { bytes, count, duration, figure, micros, NOTHING, percent, plural, timestamp } from '../../lib/format';
import { useShortcuts } from '../../lib/keys';
import { href, Link, navigate } from '../../lib/router';
import type { Params } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Bars } from '../../charts/shapes';
import { CliLine, Code } from '../../ui/cli';
import { Card, Facts, Page } from '../../ui/page';
import { useCommands } from '../../ui/palette';
import { ErrorNote, Skeleton } from '../../ui/states';
import { Stat, Status } from '../../ui/status';
import { Ago, Name } from '../../ui/text';
import { VersionLink } from '../runs/parts';
import { useDevicesOn, useManifest, useModelVersion, useRolloutsOf, useRunById } from './data';
import type { ModelVersion } from './data';
import { Signing } from './signing';
import { readManifest, runningTerm, tensorText } from './words';
import type { Manifest } from './words';
import './registry.css';

export default function VersionScreen({ params }: { params: Params }): JSX.Element {
  const id = params.id ?? '';
  const answer = useModelVersion(id);
  const version = answer.data;
  const promote = href('/rollouts/new', {}, { version: id });
  const ready = version?.signature === 'signed' && can('operate');
  useShortcuts(() => (ready ? [{ keys: 'p', label: 'Promote: plan a rollout', group: 'Model version', run: () => navigate(promote) }] : []), [ready, promote]);
  useCommands(
    () => (ready ? [{ label: 'Promote: plan a rollout of this version', group: 'Model version', icon: 'rollouts' as const, keys: 'p', run: () => navigate(promote) }] : []),
    [ready, promote],
  );
  // One page for what loads and what is here: its heading keeps the focus when the data comes.
  return (
    <Page
      title={
        version === undefined ? (
          'Model version'
        ) : (
          <>
            <bdi>{version.line}</bdi> <span class="num">{version.semver}</span>
          </>
        )
      }
      back={{ href: version === undefined ? '/models' : href('/models/:line', { line: version.line }), label: 'Registry' }}
      note={version === undefined ? undefined : <Status value={version.signature} />}
      actions={
        ready ? (
          <Link class="button primary" href={promote}>
            Promote: plan a rollout
          </Link>
        ) : undefined
      }
    >
      {version !== undefined ? (
        <Shown version={version} error={answer.error} />
      ) : answer.isError ? (
        <ErrorNote error={answer.error} title="The version could not be loaded" onRetry={() => answer.refetch()} />
      ) : (
        <Skeleton rows={6} label="Loading the model version" />
      )}
    </Page>
  );
}

function Shown({ version, error }: { version: ModelVersion; error: unknown }): JSX.Element {
  const document = useManifest(version.id);
  const manifest = useMemo(() => (document.data === undefined ? undefined : readManifest(document.data.content)), [document.data]);
  const devices = useDevicesOn(version.line, version.semver);
  const tolerance = manifest?.tolerance;
  return (
    <div class="stack registry-detail" data-state="full">
      {error === null || error === undefined ? null : <ErrorNote error={error} title="What you see may be old" />}
      {version.signature === 'revoked' ? (
        <div class="error-note" role="status">
          <i aria-hidden="true">▲</i>
          <div>
            <strong>This version is revoked</strong>
            <p>It can no longer be promoted. Roll out another version to the devices that still run it.</p>
          </div>
        </div>
      ) : null}
      <section class="stats" aria-label="At a glance">
        <Stat
          label="Devices"
          value={devices.data === undefined ? devices.isError ? NOTHING : <span class="bone" /> : count(total(devices.data))}
          note="run this version"
          href={href('/devices', {}, { filter: runningTerm(version.line, version.semver) })}
        />
        <Stat
          label="Golden difference"
          value={figure(version.golden_max_diff, 2)}
          note={`${plural(version.golden_cases, 'case')}${tolerance === undefined ? '' : `, ${percent(version.golden_max_diff / tolerance, 1)} of the tolerance ${figure(tolerance, 2)}`}`}
        />
        <Stat label="Package" value={bytes(version.package_bytes)} note={manifest === undefined ? undefined : plural(manifest.components.length, 'component')} />
        <Stat
          label="Release"
          value={count(version.release_counter)}
          note={
            <>
              made <Ago time={version.created_at} suffix />
            </>
          }
        />
      </section>
      {version.signature === 'unsigned' ? <Signing version={version} document={document.data} /> : null}
      <Lineage version={version} devices={devices.data === undefined ? undefined : total(devices.data)} />
      {document.isError && document.data === undefined ? (
        <ErrorNote error={document.error} title="The manifest could not be loaded" onRetry={() => document.refetch()} />
      ) : manifest === undefined ? (
        <Skeleton rows={5} label="Loading the manifest" />
      ) : (
        <div class="grid-2">
          <div class="stack registry-side">
            <Components manifest={manifest} />
            {version.signature === 'unsigned' ? null : <Signing version={version} document={document.data} />}
          </div>
          <Contract manifest={manifest} version={version} />
        </div>
      )}
    </div>
  );
}

/** Each device is in one of these; "alert" and "updating" are said beside, not instead. */
function total(counts: { online: number; offline: number }): number {
  return counts.online + counts.offline;
}

function Step({ name, children, note }: { name: string; children: ComponentChildren; note?: ComponentChildren }): JSX.Element {
  return (
    <li>
      <span class="registry-step">{name}</span>
      <span class="registry-what">{children}</span>
      <span class="muted registry-note">{note}</span>
    </li>
  );
}

function Lineage({ version, devices }: { version: ModelVersion; devices: number | undefined }): JSX.Element {
  const run = useRunById(version.run ?? undefined);
  const rollouts = useRolloutsOf(version.id);
  const newest = rollouts.data?.items[0];
  const made = rollouts.data?.total ?? 0;
  const accuracy = run.data?.metrics['holdout.accuracy'];
  return (
    <Card title="Lineage" note="where it came from, and where it went" actions={<Link href={href('/drift', {}, { line: version.line })}>Drift of this line</Link>}>
      <ol class="registry-chain" aria-label="Lineage">
        <Step name="Dataset version" note={version.dataset_version === undefined || version.dataset_version === null ? 'unknown' : 'trained on'}>
          {version.dataset_version === undefined || version.dataset_version === null ? <span class="muted">{NOTHING}</span> : <VersionLink id={version.dataset_version} />}
        </Step>
        <Step name="Run" note={accuracy === undefined ? (version.run === undefined || version.run === null ? 'imported' : '') : `${percent(accuracy)} on the holdout`}>
          {version.run === undefined || version.run === null ? (
            <span class="muted">{NOTHING}</span>
          ) : (
            <Link href={href('/runs/:id', { id: version.run })}>
              {run.data === undefined ? <code>{version.run.slice(0, 8)}</code> : <Name value={`${run.data.experiment}, seed ${run.data.seed}`} />}
            </Link>
          )}
        </Step>
        <Step name="Model version" note={<Status value={version.signature} />}>
          <strong>
            <Name value={version.line} /> <span class="num">{version.semver}</span>
          </strong>
        </Step>
        <Step
          name={made === 1 ? 'Rollout' : 'Rollouts'}
          note={newest !== undefined ? <Status value={newest.state} /> : rollouts.data === undefined ? '' : 'not rolled out yet'}
        >
          {newest === undefined ? (
            <span class="muted">{rollouts.isError ? 'could not be loaded' : NOTHING}</span>
          ) : (
            <>
              <Link href={href('/rollouts/:id', { id: newest.id })}>
                {plural(newest.targeted, 'device')}, <Ago time={newest.created_at} suffix />
              </Link>
              {made > 1 ? (
                <>
                  {', '}
                  <Link href={href('/rollouts', {}, { version: version.id })}>and {count(made - 1)} before</Link>
                </>
              ) : null}
            </>
          )}
        </Step>
        <Step name="Devices" note="run it now">
          <Link href={href('/devices', {}, { filter: runningTerm(version.line, version.semver) })}>{devices === undefined ? NOTHING : plural(devices, 'device')}</Link>
        </Step>
      </ol>
    </Card>
  );
}

function Components({ manifest }: { manifest: Manifest }): JSX.Element {
  const largest = [...manifest.components].sort((left, right) => right.bytes - left.bytes);
  return (
    <Card title="Components" note="what a device downloads, at the most">
      <Bars label="Size of each component" format={bytes} bars={largest.map((component) => ({ label: component.kind, value: component.bytes }))} />
      <ul class="registry-digests" aria-label="Digests">
        {largest.map((component) => (
          <li key={component.kind}>
            <bdi>{component.kind}</bdi>
            <span class="muted">{component.mediaType}</span>
            <Code value={component.digest} label="Copy the digest" />
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Contract({ manifest, version }: { manifest: Manifest; version: ModelVersion }): JSX.Element {
  const any = (names: readonly string[]): ComponentChildren => (names.length === 0 ? <span class="muted">any</span> : <bdi>{names.join(', ')}</bdi>);
  return (
    <Card title="Manifest">
      <Facts
        items={[
          ['Digest', <Code key="d" value={version.manifest} label="Copy the digest" />],
          ['Labels', <bdi key="l">{manifest.labels.slice(0, 12).join(', ')}{manifest.labels.length > 12 ? ` and ${count(manifest.labels.length - 12)} more` : ''}</bdi>],
          ...manifest.inputs.slice(0, 4).map((input) => [`Input ${input.name}`, <code key={input.name}>{tensorText(input)}</code>] as const),
          ...manifest.outputs.slice(0, 4).map((output) => [`Output ${output.name}`, <code key={output.name}>{tensorText(output)}</code>] as const),
          ['Runtime', `${manifest.runtime ?? NOTHING}${manifest.opset === undefined ? '' : `, opset ${manifest.opset}`}`],
          ['Agent', manifest.minAgent === undefined ? NOTHING : `${manifest.minAgent} or newer`],
          ['Hardware', any(manifest.hardware)],
          ['Architecture', any(manifest.arch)],
          ['Needs', `${bytes(manifest.minRam)} memory, ${bytes(manifest.minDisk)} disk`],
          ['Inference budget', manifest.p95 === undefined || manifest.p95 === 0 ? <span class="muted">none</span> : `${micros(manifest.p95)} at the 95th percentile`],
          [
            'Installable until',
            manifest.expires === undefined ? NOTHING : `${timestamp(manifest.expires)}${manifest.issued === undefined ? '' : `, ${duration(manifest.expires - manifest.issued)} in all`}`,
          ],
          ['Built by', <bdi key="b">{manifest.code ?? NOTHING}</bdi>],
        ]}
      />
      <CliLine line={cli('models', 'show', version.id)} />
    </Card>
  );
}
