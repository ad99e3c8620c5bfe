// Planning a rollout: which signed version, to which devices, in which steps, and when it has to stop by itself. Beside the
// form stands what it would reach. Nothing is sent to a device from here: a draft is started on its own page.
import type { JSX } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import { bytes, plural } from '../../lib/format';
import { useDebounced } from '../../lib/hooks';
import { href, Link, navigate, oneOf, text, useSearch } from '../../lib/router';
import { can } from '../../lib/session';
import { cli } from '../../lib/shell';
import { Button } from '../../ui/button';
import { CliLine } from '../../ui/cli';
import { ComboBox } from '../../ui/combobox';
import { Field, Form, useDraft } from '../../ui/form';
import { Icon } from '../../ui/icon';
import { Card, Page } from '../../ui/page';
import { Empty, ErrorNote, Skeleton } from '../../ui/states';
import { Status } from '../../ui/status';
import { toast } from '../../ui/toast';
import { filterToCel } from './cel';
import { useCreate, useLines, usePreview, useSignedVersions, useVersion } from './data';
import { NextStep } from './next';
import { beginning, createLine, isBegun, NEW_PLAN, planProblems, previewSpec, secondsText, specOf } from './plan';
import type { PhaseDraft, Plan, PlanField } from './plan';
import { Preview } from './preview';
import './rollouts.css';

/**
 * `version`: a model version's id. `filter`: of the device list, as the target to begin with; `target`: that target itself.
 * `harvest`: devices shall keep inputs, whatever an earlier plan said.
 */
const SEARCH = { version: text(), filter: text(), target: text(), line: text(), harvest: oneOf(['', '1'], '') };
type Errors = Partial<Record<PlanField, string>>;
type Set = (patch: Partial<Plan>) => void;

const EXAMPLES: readonly { cel: string; says: string }[] = [
  { cel: 'true', says: 'every device' },
  { cel: 'device.tags["site"] == "oslo"', says: 'a tag has a value' },
  { cel: 'device.hardware_class == "gateway" && device.arch == "aarch64"', says: 'both hold' },
  { cel: 'device.id.startsWith("press-")', says: 'names that begin so' },
  { cel: '"canary" in device.tags', says: 'devices that have a tag' },
  { cel: '!(device.tags["site"] in ["oslo", "pune"])', says: 'tagged, and none of these' },
];

const PRESETS: readonly { label: string; phases: PhaseDraft[] }[] = [
  { label: 'One, then all', phases: NEW_PLAN.phases },
  {
    label: '1 → 10 % → 50 % → all',
    phases: [
      { kind: 'devices', value: '1' },
      { kind: 'percent', value: '10' },
      { kind: 'percent', value: '50' },
      { kind: 'percent', value: '100' },
    ],
  },
  { label: 'All at once', phases: [{ kind: 'percent', value: '100' }] },
];

function Phases({ phases, set }: { phases: readonly PhaseDraft[]; set: Set }): JSX.Element {
  const change = (at: number, patch: Partial<PhaseDraft>): void => set({ phases: phases.map((phase, index) => (index === at ? { ...phase, ...patch } : phase)) });
  return (
    <>
      <ol class="ro-editor">
        {phases.map((phase, index) => (
          <li key={index}>
            <span class="muted num">{index + 1}</span>
            <input
              class="input"
              type="number"
              min={phase.kind === 'devices' ? 1 : 0}
              step={phase.kind === 'devices' ? 1 : 'any'}
              max={phase.kind === 'percent' ? 100 : undefined}
              aria-label={`Phase ${index + 1}: how many`}
              value={phase.value}
              onInput={(event) => change(index, { value: event.currentTarget.value })}
            />
            <select class="input" aria-label={`Phase ${index + 1}: of what`} value={phase.kind} onChange={(event) => change(index, { kind: event.currentTarget.value === 'devices' ? 'devices' : 'percent' })}>
              <option value="devices">devices in all</option>
              <option value="percent">% of all devices</option>
            </select>
            <Button size="small" kind="ghost" aria-label={`Remove phase ${index + 1}`} disabled={phases.length === 1} onClick={() => set({ phases: phases.filter((_phase, at) => at !== index) })}>
              <Icon name="close" size={12} />
            </Button>
          </li>
        ))}
      </ol>
      <div class="row">
        <Button
          size="small"
          onClick={() => {
            // Before the last, which is always "all".
            const last = phases.at(-1) ?? { kind: 'percent' as const, value: '100' };
            set({ phases: [...phases.slice(0, -1), { kind: 'percent', value: '50' }, last] });
          }}
        >
          <Icon name="plus" size={12} /> Add a phase
        </Button>
        {PRESETS.map((preset) => (
          <button key={preset.label} type="button" class="link" onClick={() => set({ phases: preset.phases })}>
            {preset.label}
          </button>
        ))}
      </div>
    </>
  );
}

function Seconds({ label, help, value, error, onInput }: { label: string; help: string; value: string; error: string | undefined; onInput(value: string): void }): JSX.Element {
  return (
    <Field label={label} help={help} error={error}>
      {(control) => (
        <span class="ro-unit">
          <input {...control} class="input" inputMode="decimal" value={value} onInput={(event) => onInput(event.currentTarget.value)} />
          <span class="muted num">s {secondsText(value) === '' ? '' : `= ${secondsText(value)}`}</span>
        </span>
      )}
    </Field>
  );
}

export default function NewRollout(): JSX.Element {
  const [view, setView] = useSearch(SEARCH);
  const [plan, change, discard] = useDraft<Plan>('rollout-plan', NEW_PLAN);
  const begin = useMemo(() => beginning({ filter: view.filter, target: view.target, harvest: view.harvest === '1' }), [view.filter, view.target, view.harvest]);
  // Judged once: what is typed from now on is no earlier plan.
  const [earlier, setEarlier] = useState(() => isBegun(plan, begin));
  const lines = useLines();
  const given = useVersion(view.version);
  const line = view.line !== '' ? view.line : (given.data?.line ?? (view.version === '' ? (lines.data?.items[0]?.line ?? '') : ''));
  const versions = useSignedVersions(line);
  const signed = versions.data?.items ?? [];
  const version = view.version === '' ? signed[0] : (given.data ?? signed.find((candidate) => candidate.id === view.version));
  const chosen = version?.line === line && version.signature === 'signed' ? version : undefined;
  const create = useCreate();
  const carried = useMemo(() => filterToCel(view.filter), [view.filter]);

  const about = chosen === undefined ? '' : `${chosen.line} ${chosen.semver}`;
  const set: Set = (patch) => change({ about: plan.about === '' ? about : plan.about, ...patch });
  // What the address says is where the plan begins, once: what is typed afterwards stays over a reload.
  useEffect(() => {
    if (begin.filter !== undefined && begin.filter !== plan.filter) change(begin);
    else if (begin.harvest === true && !plan.harvest) change({ harvest: true, onDrift: true });
  }, [begin]);

  const settledPlan = useDebounced(plan, 250);
  const asked = previewSpec(settledPlan, chosen?.id ?? '');
  const preview = usePreview(asked);
  const spec = specOf(plan, chosen?.id ?? '', preview.data?.seed);
  const back = { href: '/rollouts', label: 'Rollouts' };
  const unsigned = lines.data?.items.find((each) => each.line === line)?.unsigned ?? 0;
  if (lines.data === undefined)
    return (
      <Page title="New rollout" back={back}>
        {lines.isError ? <ErrorNote error={lines.error} title="The models could not be loaded" onRetry={() => lines.refetch()} /> : <Skeleton rows={6} label="Loading models" />}
      </Page>
    );
  if (lines.data.items.length === 0)
    return (
      <Page title="New rollout" back={back}>
        <Empty
          action={
            <Link class="button primary" href="/models">
              Open the registry
            </Link>
          }
          cli={cli('models', 'list')}
        >
          There is no model yet: package a finished run and sign the version, then it can be rolled out.
        </Empty>
      </Page>
    );
  return (
    <Page title="New rollout" note="a draft; nothing reaches a device before it is started" back={back}>
      <div class="ro-plan" data-state="full">
        <div class="ro-form">
          {earlier ? (
            <p class="ro-note" role="status">
              <Status tone="busy">{plan.about === '' || plan.about === about ? 'This goes on from a plan that you began earlier' : `This goes on from a plan that you began for ${plan.about}`}</Status>{' '}
              <button
                type="button"
                class="link"
                onClick={() => {
                  discard();
                  change(begin);
                  setEarlier(false);
                }}
              >
                Start afresh
              </button>
            </p>
          ) : null}
          <Form<PlanField>
            send="Make the draft"
            onCancel={() => {
              discard();
              navigate('/rollouts');
            }}
            validate={() => planProblems(plan, chosen?.id ?? '')}
            onSend={async () => {
              if (!can('operate')) throw new Error('Your role may not plan rollouts.');
              const made = await create.mutateAsync(spec);
              discard();
              toast(`Draft made: ${made.line} ${made.semver}`);
              navigate(href('/rollouts/:id', { id: made.id }));
            }}
          >
            {(errors: Errors) => (
              <>
                <Card title="What">
                  <div class="ro-fields">
                    <Field label="Model line">
                      {(control) => (
                        <ComboBox
                          id={control.id}
                          value={line}
                          options={lines.data.items.map((each) => ({ value: each.line, label: each.line, help: plural(each.versions, 'version') }))}
                          onChange={(value) => setView({ line: value, version: '' })}
                          label="Model line"
                        />
                      )}
                    </Field>
                    <Field label="Signed version" error={errors.version} help={unsigned > 0 ? `${plural(unsigned, 'other version')} of this line ${unsigned === 1 ? 'is' : 'are'} not signed.` : 'Devices install nothing that is not signed by its release role.'}>
                      {(control) => (
                        <ComboBox
                          id={control.id}
                          value={chosen?.id ?? ''}
                          options={signed.map((each) => ({ value: each.id, label: each.semver, help: `release ${each.release_counter}, ${bytes(each.package_bytes)}` }))}
                          onChange={(value) => setView({ line, version: value })}
                          placeholder={signed.length === 0 ? 'none is signed' : 'choose a version'}
                          label="Signed version"
                        />
                      )}
                    </Field>
                    <Field label="Slot" error={errors.slot} help="Devices hold one model per slot.">
                      {(control) => <input {...control} class="input" value={plan.slot} onInput={(event) => set({ slot: event.currentTarget.value })} />}
                    </Field>
                  </div>
                  {version !== undefined && version.signature !== 'signed' && version.line === line ? (
                    <p>
                      <Status value={version.signature}>
                        {version.line} {version.semver} is {version.signature}:{' '}
                      </Status>
                      <Link href={href('/model-versions/:id', { id: version.id })}>sign it first</Link>
                    </p>
                  ) : null}
                  {given.isError ? <ErrorNote error={given.error} title="The version in the address could not be found" /> : null}
                </Card>
                <Card title="To which devices">
                  {view.filter !== '' && carried.left.length > 0 ? (
                    <p class="ro-note">
                      <Status tone="busy">
                        No target says <code>{carried.left.join(' ')}</code>, so none is filled in
                      </Status>{' '}
                      <span class="muted">
                        A target says what a device is, not how it is at this moment. Choose devices in the list to name them, or write the target here
                        {carried.cel === 'true' ? '.' : ':'}
                      </span>
                      {carried.cel === 'true' ? null : (
                        <button type="button" class="link mono" onClick={() => set({ target: carried.cel })}>
                          {carried.cel}
                        </button>
                      )}
                    </p>
                  ) : null}
                  <Field label="Target" error={errors.target} help="A CEL expression over device: id, tags, arch, hardware_class, agent_version.">
                    {(control) => (
                      <textarea {...control} class="input mono ro-target" rows={2} spellcheck={false} value={plan.target} onInput={(event) => set({ target: event.currentTarget.value })} />
                    )}
                  </Field>
                  <details class="ro-help">
                    <summary>How to write one</summary>
                    <ul>
                      {EXAMPLES.map((example) => (
                        <li key={example.cel}>
                          <button type="button" class="link mono" onClick={() => set({ target: example.cel })}>
                            {example.cel}
                          </button>
                          <span class="muted">{example.says}</span>
                        </li>
                      ))}
                    </ul>
                    <p class="muted">
                      Also: <code>&&</code>, <code>||</code>, <code>!</code>, <code>in […]</code>, <code>has(device.tags.site)</code>, <code>contains</code>, <code>endsWith</code>. A device without a tag that is named is not selected.
                    </p>
                  </details>
                </Card>
                <Card title="In which steps" note="each reaches so many devices in all, the earlier ones counted in">
                  <div class="field" role="group" aria-label="Phases" aria-describedby={errors.phases === undefined ? undefined : 'ro-phases-error'}>
                    <Phases phases={plan.phases} set={set} />
                    {errors.phases === undefined ? null : (
                      <p id="ro-phases-error" class="field-error" role="alert">
                        ▲ {errors.phases}
                      </p>
                    )}
                  </div>
                  <div class="ro-fields">
                    <Seconds label="Start spread" help="Devices of a phase start at different moments within so long." value={plan.spread} error={errors.spread} onInput={(spread) => set({ spread })} />
                    <Field label="Download limit" error={errors.maxBytes} help="Bytes per second and device; 0 is unlimited.">
                      {(control) => <input {...control} class="input" inputMode="numeric" value={plan.maxBytes} onInput={(event) => set({ maxBytes: event.currentTarget.value })} />}
                    </Field>
                  </div>
                </Card>
                <Card title="When it stops by itself">
                  <div class="ro-fields">
                    <Field label="Success, %" error={errors.minSuccess} help="Least share of a phase’s devices; below it the rollout halts.">
                      {(control) => <input {...control} class="input" inputMode="decimal" value={plan.minSuccess} onInput={(event) => set({ minSuccess: event.currentTarget.value })} />}
                    </Field>
                    <Seconds label="Silence" help="A device not heard of for so long has failed." value={plan.timeout} error={errors.timeout} onInput={(timeout) => set({ timeout })} />
                    <Seconds label="Soak" help="So long a device serves the version before it commits." value={plan.soak} error={errors.soak} onInput={(soak) => set({ soak })} />
                    <Field label="Errors, ‰" error={errors.maxErrors} help="Of inferences while soaking; above it the device rolls back.">
                      {(control) => <input {...control} class="input" inputMode="numeric" value={plan.maxErrors} onInput={(event) => set({ maxErrors: event.currentTarget.value })} />}
                    </Field>
                  </div>
                </Card>
                <Card title="What devices keep for labeling">
                  <label class="ro-check">
                    <input type="checkbox" checked={plan.harvest} onChange={(event) => set({ harvest: event.currentTarget.checked })} /> Keep inputs, and send them to the dataset of this line
                  </label>
                  {plan.harvest ? (
                    <>
                      <label class="ro-check">
                        <input type="checkbox" checked={plan.onDrift} aria-describedby={errors.onDrift === undefined ? undefined : 'ro-drift-error'} onChange={(event) => set({ onDrift: event.currentTarget.checked })} /> While the device’s data drifts
                      </label>
                      {errors.onDrift === undefined ? null : (
                        <p id="ro-drift-error" class="field-error" role="alert">
                          ▲ {errors.onDrift}
                        </p>
                      )}
                      <div class="ro-fields">
                        <Field label="Below confidence" error={errors.below} help="Answers less sure than this, from 0 to 1; 0: none.">
                          {(control) => <input {...control} class="input" inputMode="decimal" value={plan.below} onInput={(event) => set({ below: event.currentTarget.value })} />}
                        </Field>
                        <Field label="At most" error={errors.maxSamples} help="Samples per device and package.">
                          {(control) => <input {...control} class="input" inputMode="numeric" value={plan.maxSamples} onInput={(event) => set({ maxSamples: event.currentTarget.value })} />}
                        </Field>
                      </div>
                    </>
                  ) : null}
                </Card>
              </>
            )}
          </Form>
        </div>
        <aside class="ro-aside">
          <Preview
            spec={asked}
            answer={preview}
            ordered
            waiting={chosen === undefined ? 'Choose a signed version, and the server says what this plan would do.' : 'The server says what this plan would do as soon as its target, its phases and its slot can be read.'}
          />
          <CliLine line={createLine(spec)} />
          <NextStep at="rollout" to="model" title="Before it goes out" action="Check the version" href={chosen === undefined ? href('/models/:line', { line }) : href('/model-versions/:id', { id: chosen.id })} icon="registry">
            Its signature, its tests and what it was made of stand in the registry.
          </NextStep>
        </aside>
      </div>
    </Page>
  );
}
