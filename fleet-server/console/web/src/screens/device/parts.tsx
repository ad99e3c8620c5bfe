// The cards of a device's screen.
import type { JSX } from 'preact';
import { useMemo } from 'preact/hooks';
import { Series } from '../../charts/series';
import { Meter } from '../../charts/shapes';
import { bytes, compact, count, figure, micros, percent, plural, shortDigest } from '../../lib/format';
import { href, Link } from '../../lib/router';
import { cli } from '../../lib/shell';
import { CliLine, Code } from '../../ui/cli';
import { Card, Facts } from '../../ui/page';
import type { TimelineItem } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Status } from '../../ui/status';
import type { Tone } from '../../ui/status';
import { Ago } from '../../ui/text';
import { Timeline } from '../../ui/timeline';
import { Pager } from '../audit/pager';
import type { Device, Hour, SlotDiff, Span } from './data';
import { chartsOf, diffOf, useDrift, useHours, useTimeline, useVersionNames } from './data';
import { detailWords, eventWords } from './events';
import { TagList } from './tags';

export type Names = ReadonlyMap<string, string>;

const DIFF: Record<SlotDiff['state'], readonly [Tone, string]> = {
  same: ['ok', 'As desired'],
  soaking: ['busy', 'Soaking, not committed yet'],
  behind: ['busy', 'On the way'],
  missing: ['busy', 'Not there yet'],
  unasked: ['info', 'Nothing desired'],
};

function Package({ side, other }: { side: { name: string; manifest: string } | undefined; other: string | undefined }): JSX.Element {
  if (side === undefined) return <span class="muted">nothing</span>;
  return (
    <>
      <bdi class={side.manifest === other ? undefined : 'strong'}>{side.name}</bdi> <Code value={side.manifest} label="Copy the manifest" />
    </>
  );
}

export function DiffCard({ device }: { device: Device }): JSX.Element {
  const slots = diffOf(device);
  const differing = slots.filter((slot) => slot.state === 'behind' || slot.state === 'missing').length;
  return (
    <Card title="Desired and reported" note={slots.length === 0 ? undefined : differing === 0 ? 'no difference' : `${plural(differing, 'slot')} differ${differing === 1 ? 's' : ''}`} flush>
      {slots.length === 0 ? (
        <Empty cli={cli('rollouts', 'create', '--model-version', 'ID', '--target', `device.id == ${JSON.stringify(device.id)}`)}>No model is desired here, and none is installed: a rollout brings one.</Empty>
      ) : (
        <div class="device-diff" role="table" aria-label="Desired and reported by slot">
          <div role="row" class="device-diff-row head">
            <span role="columnheader">Slot</span>
            <span role="columnheader">Desired</span>
            <span role="columnheader">Reported</span>
            <span role="columnheader">State</span>
          </div>
          {slots.map((slot) => (
            <div role="row" key={slot.slot} class={`device-diff-row ${slot.state}`}>
              <span role="cell" class="device-diff-slot">
                <bdi>{slot.slot}</bdi>
              </span>
              <span role="cell" data-label="Desired">
                <Package side={slot.desired} other={slot.reported?.manifest} />
              </span>
              <span role="cell" data-label="Reported">
                <Package side={slot.reported} other={slot.desired?.manifest} />
              </span>
              <span role="cell">
                <Status tone={DIFF[slot.state][0]}>{DIFF[slot.state][1]}</Status>
              </span>
            </div>
          ))}
        </div>
      )}
    </Card>
  );
}

const SPAN_WORDS: readonly (readonly [Span, string])[] = [
  ['24h', '24 h'],
  ['7d', '7 d'],
  ['30d', '30 d'],
];

export function TelemetryCard({ id, span, onSpan, names }: { id: string; span: Span; onSpan(span: Span): void; names: Names }): JSX.Element {
  const answer = useHours(id, span);
  const hours = answer.data?.hours;
  const charts = useMemo(() => chartsOf(hours ?? [], (hour: Hour) => `${hour.line} ${names.get(hour.manifest) ?? shortDigest(hour.manifest)}`, answer.data), [hours, names, answer.data]);
  return (
    <Card
      title="Telemetry by the hour"
      note={charts === undefined ? undefined : charts.failures === 0 ? 'no failures' : <span class="bad">▲ {plural(charts.failures, 'failure')}</span>}
      actions={
        <div class="device-spans" role="group" aria-label="Span of time">
          {SPAN_WORDS.map(([value, label]) => (
            <button key={value} type="button" aria-pressed={value === span} onClick={() => onSpan(value)}>
              {label}
            </button>
          ))}
        </div>
      }
    >
      {answer.isError && hours === undefined ? (
        <ErrorNote error={answer.error} title="The telemetry could not be loaded" onRetry={() => answer.refetch()} />
      ) : hours === undefined ? (
        <Skeleton rows={5} label="Loading telemetry" />
      ) : charts === undefined ? (
        <p class="muted">No inference in this time.</p>
      ) : (
        <div class="device-charts">
          <Series title="Inferences" x={charts.x} lines={charts.inferences} zero format={compact} height={168} />
          <Series title="Latency" x={charts.latencyX} lines={charts.latency} unit="ms" zero height={168} />
        </div>
      )}
    </Card>
  );
}

/** Packages that are listed; a device has run more only after years. */
const MOST_PACKAGES = 12;

export function ModelsCard({ device, names }: { device: Device; names: Names }): JSX.Element {
  const held = new Set(device.models.map((model) => model.manifest));
  const packages = [...device.telemetry].sort((left, right) => Number(held.has(right.manifest)) - Number(held.has(left.manifest)));
  const without = device.models.filter((model) => !device.telemetry.some((row) => row.manifest === model.manifest));
  const rows = [
    ...without.map((model) => ({ manifest: model.manifest, line: model.line, semver: model.semver, row: undefined })),
    ...packages.map((row) => ({ manifest: row.manifest, line: row.line, semver: names.get(row.manifest), row })),
  ];
  return (
    <Card title="Models" note={rows.length === 0 ? undefined : 'since enrolment'} flush>
      {rows.length === 0 ? (
        <p class="device-none muted">It has run no model yet.</p>
      ) : (
        <div class="device-scroll" tabIndex={0} role="region" aria-label="Models that it has run">
          <table class="device-table">
            <thead>
              <tr>
                <th scope="col">Package</th>
                <th scope="col">In use</th>
                <th scope="col" class="end">
                  Inferences
                </th>
                <th scope="col" class="end">
                  Failures
                </th>
                <th scope="col" class="end">
                  p50
                </th>
                <th scope="col" class="end">
                  p95
                </th>
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, MOST_PACKAGES).map(({ manifest, line, semver, row }) => (
                <tr key={manifest}>
                  <th scope="row">
                    <Link class="row-link" href={href('/models/:line', { line })}>
                      <bdi>{line}</bdi> {semver ?? ''}
                    </Link>{' '}
                    {semver === undefined ? <Code value={manifest} label="Copy the manifest" /> : null}
                  </th>
                  <td>{held.has(manifest) ? <Status value="active" /> : <span class="muted">before</span>}</td>
                  <td class="end">{count(row?.inferences ?? 0)}</td>
                  <td class={(row?.failures ?? 0) > 0 ? 'end hot' : 'end'}>{count(row?.failures ?? 0)}</td>
                  <td class="end">{row === undefined || row.inferences === 0 ? '–' : micros(row.p50_us)}</td>
                  <td class="end">{row === undefined || row.inferences === 0 ? '–' : micros(row.p95_us)}</td>
                </tr>
              ))}
            </tbody>
          </table>
          {rows.length > MOST_PACKAGES ? <p class="device-none muted">and {plural(rows.length - MOST_PACKAGES, 'older package')}</p> : null}
        </div>
      )}
    </Card>
  );
}

/** Features shown of each judgement, the furthest first. */
const WORST = 4;
const JUDGEMENTS = 4;

export function DriftCard({ id }: { id: string }): JSX.Element {
  const answer = useDrift(id);
  const items = answer.data?.items;
  return (
    <Card
      title="Drift"
      actions={
        items?.[0] === undefined ? undefined : <Link href={href('/drift/:device/:manifest', { device: id, manifest: items[0].manifest })}>Compare distributions</Link>
      }
      flush
    >
      {answer.isError && items === undefined ? (
        <ErrorNote error={answer.error} title="The judgements could not be loaded" onRetry={() => answer.refetch()} />
      ) : items === undefined ? (
        <div class="device-none">
          <Skeleton rows={3} label="Loading drift" />
        </div>
      ) : items.length === 0 ? (
        <p class="device-none muted">Nothing has been judged yet: a judgement needs a window of observations.</p>
      ) : (
        <ul>
          {items.slice(0, JUDGEMENTS).map((item) => (
            <li key={item.manifest} class="device-drift">
              <div class="row">
                <Link class="row-link strong" href={href('/drift/:device/:manifest', { device: item.device, manifest: item.manifest })}>
                  <bdi>{item.line}</bdi> {item.semver}
                </Link>
                <Status tone={item.drifted ? 'bad' : 'ok'}>{item.drifted ? 'Drifted' : 'No drift'}</Status>
                <span class="muted num device-end">
                  <Ago time={item.at} suffix />
                </span>
              </div>
              <p class="muted">
                {percent(item.share)} of its features drifted over {plural(item.count, 'observation')}; {count(item.alarms)} of {plural(item.judgements, 'judgement')} alarmed; nearest slice <bdi>{item.nearest_slice}</bdi>
              </p>
              <ul class="device-features" aria-label={`Features of ${item.line} ${item.semver} that moved most`}>
                {item.worst.slice(0, WORST).map((feature) => (
                  <li key={feature.name} class={feature.drifted ? 'hot' : undefined}>
                    <bdi>{feature.name}</bdi>
                    <Meter value={Math.max(0, feature.corrected)} max={1} text={`${figure(Math.max(0, feature.corrected), 2)}${feature.drifted ? ' ▲' : ''}`} />
                  </li>
                ))}
              </ul>
            </li>
          ))}
          {items.length > JUDGEMENTS ? <li class="device-none muted">and {plural(items.length - JUDGEMENTS, 'package')} before</li> : null}
        </ul>
      )}
    </Card>
  );
}

export function FactsCard({ device }: { device: Device }): JSX.Element {
  return (
    <Card title="About">
      <Facts
        items={[
          ['Tags', <TagList tags={device.tags} />],
          ['Hardware', <bdi>{device.hardware_class}</bdi>],
          ['Architecture', <bdi>{device.arch}</bdi>],
          ['Agent', <bdi>{device.agent_version}</bdi>],
          ['Memory', bytes(device.ram_bytes)],
          ['Free on disk', bytes(device.disk_free_bytes)],
          ['Boots', count(device.boot_count)],
          ['Last seen', <Ago time={device.last_seen} />],
          ['Enrolled', <Ago time={device.enrolled_at} />],
          ['Key', <Code value={device.thumbprint} label="Copy the key’s fingerprint" />],
          [
            'Audit chain',
            <Link href={href('/audit', {}, { filter: `device:${JSON.stringify(device.id)}` })}>{plural(device.audit_entries, 'verified entry', 'verified entries')}</Link>,
          ],
        ]}
      />
    </Card>
  );
}

export function TimelineCard({ id, cursor, onGo }: { id: string; cursor: string; onGo(cursor: string): void }): JSX.Element {
  const answer = useTimeline(id, cursor);
  // Packages that never worked stand here alone.
  const manifests = useMemo(() => answer.data?.items.flatMap((event) => event.detail.manifest ?? []) ?? [], [answer.data]);
  const names = useVersionNames(manifests);
  const items: TimelineItem[] | undefined = useMemo(
    () =>
      answer.data?.items.map((event, index) => {
        const words = eventWords(event.event);
        const detail = detailWords(event, (manifest) => names.get(manifest));
        return {
          id: `${event.at}/${event.kind}/${event.event}/${index}`,
          at: event.at,
          tone: words.tone,
          title: <bdi>{words.title}</bdi>,
          detail: (
            <>
              {detail === '' ? null : <bdi>{detail}</bdi>}
              {event.rollout === undefined || event.rollout === null ? event.kind === 'server' ? <bdi class="device-actor">by {event.actor}</bdi> : null : <Link href={href('/rollouts/:id', { id: event.rollout })}>Rollout</Link>}
            </>
          ),
        };
      }),
    [answer.data, names],
  );
  return (
    <Card title="Timeline" note={cursor === '' ? 'newest first' : 'earlier'} actions={<Pager label="Timeline" cursor={cursor} next={answer.data?.next_cursor} onGo={onGo} />}>
      {answer.isError && items === undefined ? (
        <ErrorNote error={answer.error} title="The timeline could not be loaded" onRetry={() => answer.refetch()} />
      ) : items === undefined ? (
        <Skeleton rows={6} label="Loading the timeline" />
      ) : items.length === 0 ? (
        <p class="muted">Nothing has happened yet.</p>
      ) : (
        <Timeline items={items} label="Timeline" />
      )}
      <CliLine line={cli('devices', 'timeline', id, ...(cursor === '' ? [] : ['--cursor', cursor]))} />
    </Card>
  );
}
