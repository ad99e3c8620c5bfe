import { describe, expect, it } from 'vitest';
import { celToFilter, filterToCel, namesToCel, targetOf } from './cel';
import type { Deployment, Rollout } from './data';
import { beginning, causesOf, createLine, goal, isBegun, NEW_PLAN, phasesOf, planProblems, specOf, tally } from './plan';

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
  it('counts what a filter can say too', () => {
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
  it('reach what the planner says', () => {
    expect(goal({ kind: 'count', devices: 5 }, 3)).toBe(3);
    expect(goal({ kind: 'percent', percent: 10 }, 3)).toBe(1);
    expect(goal({ kind: 'percent', percent: 50 }, 101)).toBe(51);
    expect(goal({ kind: 'percent', percent: 100 }, 0)).toBe(0);
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

function deployment(device: string, phase: number, state: string, reason?: string): Deployment {
  return { id: device, device, phase, state, bytes_received: 0, bytes_total: 0, updated_at: '', ...(reason === undefined ? {} : { reason }) };
}

describe('progress', () => {
  it('puts eleven states into four outcomes', () => {
    expect(tally({ success: 2, 'already-installed': 1, failure: 1, 'rolled-back': 1, pending: 1, soaking: 1, 'no-longer-applicable': 1, decommissioned: 1 })).toEqual({
      succeeded: 3, failed: 2, running: 2, withdrawn: 2, deployed: 9,
    });
  });
  it('tells phases from deployments and from what the target selects', () => {
    const given = [deployment('a', 0, 'success'), deployment('b', 0, 'success'), deployment('c', 1, 'soaking')];
    const phases = phasesOf(rollout({ counts: { success: 2, soaking: 1 } }), given, 10);
    expect(phases.map((phase) => [phase.state, phase.total, phase.tally?.succeeded])).toEqual([
      ['passed', 2, 2],
      ['current', 3, 0],
      ['waiting', 5, 0],
    ]);
  });
  it('claims nothing about phases whose devices were not read or counted', () => {
    const phases = phasesOf(rollout({ counts: { pending: 3 } }), undefined, undefined);
    expect(phases.map((phase) => [phase.total, phase.tally])).toEqual([[undefined, undefined], [undefined, undefined], [undefined, undefined]]);
  });
  it('does not promise devices to an aborted rollout', () => {
    const phases = phasesOf(rollout({ state: 'aborted', phase: 0, counts: { success: 1 } }), [deployment('a', 0, 'success')], 10);
    expect(phases.map((phase) => [phase.state, phase.total])).toEqual([['current', 1], ['skipped', 0], ['skipped', 0]]);
  });
  it('groups failures that differ in figures, digests and names', () => {
    const causes = causesOf([
      deployment('a', 0, 'failure', 'nothing was heard of the device for 180 s'),
      deployment('b', 0, 'failure', 'nothing was heard of the device for 60 s'),
      deployment('c', 0, 'rolled-back', 'p95 of 812 us is above the budget'),
      deployment('d', 0, 'failure'),
      deployment('e', 0, 'success', 'fine'),
    ]);
    expect(causes.map((cause) => [cause.count, cause.devices])).toEqual([[2, ['a', 'b']], [1, ['c']], [1, ['d']]]);
    expect(causes[0]?.example).toBe('nothing was heard of the device for 180 s');
  });
});
