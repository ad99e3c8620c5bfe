import { describe, expect, it } from 'vitest';
import { celToFilter, filterToCel, namesToCel, targetOf } from './cel';
import type { Rollout, RolloutPreview } from './data';
import { beginning, createLine, isBegun, NEW_PLAN, phasesOf, planProblems, previewSpec, specOf, STATES_OF, outcomeOf, tally } from './plan';

const VERSION = '01a2071b-0e63-71f4-9070-6160c286f9ef';

describe('targets', () => {
  it('turns a filter into an expression, and says what no expression can', () => {
    expect(filterToCel('')).toEqual({ cel: 'true', left: [] });
    expect(filterToCel('site:oslo arch:aarch64 status:online drift:>0.2 edge')).toEqual({
      cel: 'device.tags["site"] == "oslo" && device.arch == "aarch64"',
      left: ['status:online', 'drift:>0.2', 'edge'],
    });
    expect(filterToCel('id:press-* -class:bench site:*').cel).toBe('device.id.startsWith("press-") && device.hardware_class != "bench" && "site" in device.tags');
    expect(filterToCel('-site:oslo').cel).toBe('(!("site" in device.tags) || device.tags["site"] != "oslo")');
    expect(filterToCel('site:"Oslo \\"1\\""').cel).toBe('device.tags["site"] == "Oslo \\"1\\""');
  });
  it('never reach further than the list that they were made from', () => {
    expect(targetOf('')).toBe('true');
    expect(targetOf('site:oslo')).toBe('device.tags["site"] == "oslo"');
    for (const filter of ['status:alert', 'edge', '-model:1.0.0', 'drift:>0.2', 'site:oslo status:alert', 'site:"Os', 'arch:']) expect(targetOf(filter), filter).toBe('');
    expect(planProblems({ ...NEW_PLAN, target: targetOf('status:alert') }, VERSION).target).toContain('expression');
  });
  it('names devices that were chosen one by one, as long as one expression holds them', () => {
    expect(namesToCel(['press-2', 'press-1'])).toBe('device.id in ["press-1", "press-2"]');
    expect(namesToCel(['press-1'])).toBe('device.id == "press-1"');
    expect(namesToCel([])).toBeUndefined();
    expect(namesToCel(Array.from({ length: 181 }, (_unused, index) => `p${index}`))).toBeUndefined();
    expect(namesToCel(Array.from({ length: 40 }, (_unused, index) => `${'p'.repeat(60)}${index}`))).toBeUndefined();
  });
  it('says to the device list what a filter can say too', () => {
    expect(celToFilter('true')).toBe('');
    expect(celToFilter('device.tags.site == \'oslo\' && (device.arch == "x86_64")')).toBe('site:oslo arch:x86_64');
    // A device without the tag is not selected by an expression about it.
    expect(celToFilter('device.tags["site"] != "oslo"')).toBe('site:* -site:oslo');
    expect(celToFilter('!("canary" in device.tags)')).toBe('-canary:*');
    expect(celToFilter('device.tags["status"] == "new"')).toBe('"status":new');
    expect(celToFilter('device.id.startsWith("a") && device.id == "a*"')).toBe('id:a* id:"a*"');
  });
  it('carries a filter there and back', () => {
    for (const filter of ['site:oslo', 'id:press-* -class:bench', '-site:oslo', 'site:* -canary:*', 'site:"Oslo 1"']) expect(celToFilter(filterToCel(filter).cel)).toBe(filter);
  });
  it('does not guess at what it cannot read', () => {
    for (const cel of ['false', 'device.tags.site in ["oslo"]', 'device.id == "a" || device.id == "b"', 'device.id.contains("a")', 'device.id ==', 'size(device.id) > 3', 'device.ram == "1"', 'device.id == "a\\n"', '', 'tru'])
      expect(celToFilter(cel), cel).toBeUndefined();
  });
});

describe('plans', () => {
  it('are as the server wants them before they are sent', () => {
    expect(planProblems(NEW_PLAN, VERSION)).toEqual({});
    expect(planProblems(NEW_PLAN, '').version).toContain('signed');
    expect(planProblems({ ...NEW_PLAN, phases: [{ kind: 'percent', value: '50' }] }, VERSION).phases).toContain('100 %');
    expect(planProblems({ ...NEW_PLAN, phases: [{ kind: 'devices', value: '' }, { kind: 'percent', value: '100' }] }, VERSION).phases).toContain('Phase 1');
    expect(planProblems({ ...NEW_PLAN, minSuccess: '101', soak: '-1', spread: '90000', timeout: 'x' }, VERSION)).toMatchObject({
      minSuccess: expect.any(String),
      soak: expect.any(String),
      spread: expect.any(String),
      timeout: expect.any(String),
    });
    expect(planProblems({ ...NEW_PLAN, onDrift: false }, VERSION).onDrift).toBeDefined();
    expect(planProblems({ ...NEW_PLAN, onDrift: false, harvest: false }, VERSION)).toEqual({});
  });
  it('say themselves on the command line, without what is usual', () => {
    expect(createLine(specOf({ ...NEW_PLAN, harvest: false }, VERSION))).toBe(`fleetctl rollouts create --model-version ${VERSION}`);
    const plan = { ...NEW_PLAN, target: 'device.id == "a b"', phases: [{ kind: 'devices' as const, value: '3' }, { kind: 'percent' as const, value: '100' }], minSuccess: '90', below: '0.5' };
    expect(createLine(specOf(plan, VERSION))).toBe(
      `fleetctl rollouts create --model-version ${VERSION} --target 'device.id == "a b"' --phase 3 --phase 100% --min-success 0.9 --harvest-on-drift --harvest-below 0.5`,
    );
  });
  it('begin as the address says, and tell what was left over from an earlier one', () => {
    const none = { filter: '', target: '', harvest: false };
    expect(beginning(none)).toEqual({});
    expect(beginning({ ...none, filter: 'site:oslo' })).toEqual({ target: 'device.tags["site"] == "oslo"', filter: 'site:oslo' });
    expect(beginning({ ...none, filter: 'status:alert' })).toEqual({ target: '', filter: 'status:alert' });
    const named = beginning({ filter: 'status:alert', target: 'device.id == "a"', harvest: true });
    expect(named).toEqual({ target: 'device.id == "a"', filter: 'device.id == "a"', harvest: true, onDrift: true });
    expect(isBegun(NEW_PLAN, {})).toBe(false);
    expect(isBegun({ ...NEW_PLAN, ...named, about: 'motions 1.0.0' }, named)).toBe(false);
    expect(isBegun({ ...NEW_PLAN, ...named }, {})).toBe(true);
    expect(isBegun({ ...NEW_PLAN, soak: '5' }, {})).toBe(true);
    expect(isBegun({ ...NEW_PLAN, phases: [{ kind: 'percent', value: '100' }] }, {})).toBe(true);
  });
  it('are previewed as far as the preview depends on them, whatever else is wrong', () => {
    const spec = { model_version: VERSION, slot: 'main', target: 'true', phases: [{ kind: 'count', devices: 1 }, { kind: 'percent', percent: 100 }] };
    expect(previewSpec(NEW_PLAN, VERSION)).toEqual(spec);
    expect(previewSpec({ ...NEW_PLAN, soak: '-1', below: 'x', target: ' true ' }, VERSION)).toEqual(spec);
    expect(previewSpec(NEW_PLAN, '')).toBeUndefined();
    for (const patch of [{ target: ' ' }, { slot: 'A' }, { phases: [] }]) expect(previewSpec({ ...NEW_PLAN, ...patch }, VERSION)).toBeUndefined();
    expect(createLine(spec as Rollout['spec'], 'preview')).toBe(`fleetctl rollouts preview --model-version ${VERSION}`);
  });
  it('begin with the devices that the preview named', () => {
    expect(specOf({ ...NEW_PLAN, harvest: false }, VERSION)).not.toHaveProperty('seed');
    const spec = specOf({ ...NEW_PLAN, harvest: false }, VERSION, 0);
    expect(spec.seed).toBe(0);
    expect(createLine(spec)).toBe(`fleetctl rollouts create --model-version ${VERSION} --seed 0`);
  });
});

function rollout(patch: Partial<Rollout>): Rollout {
  return {
    id: 'r',
    spec: { model_version: VERSION, phases: [{ kind: 'count', devices: 2 }, { kind: 'percent', percent: 50 }, { kind: 'percent', percent: 100 }] },
    line: 'motions',
    semver: '1.0.0',
    state: 'running',
    phase: 1,
    decision: '',
    counts: {},
    targeted: 0,
    phases: [],
    created_at: '',
    updated_at: '',
    ...patch,
  };
}

describe('progress', () => {
  it('puts eleven states into four outcomes', () => {
    expect(tally({ success: 2, 'already-installed': 1, failure: 1, 'rolled-back': 1, pending: 1, soaking: 1, 'no-longer-applicable': 1, decommissioned: 1 })).toEqual({
      succeeded: 3, failed: 2, running: 2, withdrawn: 2, deployed: 9,
    });
  });
  it('names the states of an outcome as the outcome of those states', () => {
    for (const [outcome, states] of Object.entries(STATES_OF)) for (const state of states) expect(outcomeOf(state)).toBe(outcome);
  });
  it('tells phases as the server counts them', () => {
    const given = [
      { phase: 0, reach: 2, counts: { success: 2 } },
      { phase: 1, reach: 5, counts: { soaking: 1 } },
      { phase: 2, reach: 10, counts: {} },
    ];
    const phases = phasesOf(rollout({ phases: given }));
    expect(phases.map((phase) => [phase.state, phase.total, phase.tally.succeeded, phase.tally.running])).toEqual([
      ['passed', 2, 2, 0],
      ['current', 3, 0, 1],
      ['waiting', 5, 0, 0],
    ]);
  });
  it('claims nothing about phases whose reach is not known, and takes that of a draft from its preview', () => {
    const phases = [0, 1, 2].map((phase) => ({ phase, counts: {} }));
    const draft = rollout({ state: 'draft', phase: 0, phases });
    expect(phasesOf(draft).map((phase) => [phase.state, phase.total])).toEqual([['waiting', undefined], ['waiting', undefined], ['waiting', undefined]]);
    const preview = { phases: [2, 3, 5].map((devices, phase) => ({ phase, devices, reach: 0, size: { kind: 'count', devices } })) } as unknown as RolloutPreview;
    expect(phasesOf(draft, preview).map((phase) => phase.total)).toEqual([2, 3, 5]);
  });
  it('does not promise devices to an aborted rollout', () => {
    const given = [{ phase: 0, reach: 1, counts: { success: 1 } }, { phase: 1, counts: {} }, { phase: 2, counts: {} }];
    expect(phasesOf(rollout({ state: 'aborted', phase: 0, phases: given })).map((phase) => [phase.state, phase.total])).toEqual([['current', 1], ['skipped', 0], ['skipped', 0]]);
  });
});
