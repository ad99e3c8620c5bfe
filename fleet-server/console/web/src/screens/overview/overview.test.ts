import { describe, expect, it } from 'vitest';
import { fewOf, isNewcomer, listOf, nameOf, phasesOf, placeOf } from './data';
import type { Attention, AttentionKind, Rollout } from './data';

const SIZES: Rollout['spec']['phases'] = [{ kind: 'count', devices: 1 }, { kind: 'percent', percent: 50 }, { kind: 'percent', percent: 100 }];

describe('phases of a rollout', () => {
  it('are those that the server counts', () => {
    const phases = [
      { phase: 0, reach: 1, counts: { success: 1 } },
      { phase: 1, reach: 5, counts: { success: 2, soaking: 1, 'rolled-back': 1 } },
      { phase: 2, reach: 10, counts: {} },
    ];
    expect(phasesOf({ spec: { model_version: 'm', phases: SIZES }, phases })).toEqual([
      { label: '1 device', total: 1, done: 1, running: 0, failed: 0 },
      { label: '50 %', total: 4, done: 2, running: 1, failed: 1 },
      { label: '100 %', total: 5, done: 0, running: 0, failed: 0 },
    ]);
  });
  it('have no devices while their reach is not known', () => {
    const phases = [0, 1, 2].map((phase) => ({ phase, counts: {} }));
    expect(phasesOf({ spec: { model_version: 'm', phases: SIZES }, phases }).map((phase) => phase.total)).toEqual([0, 0, 0]);
  });
});

describe('what needs attention', () => {
  it('leads to where something can be done', () => {
    const item = { title: '', detail: '', at: '', id: 'a/b' };
    expect(placeOf({ ...item, kind: 'drift' })).toBe('/devices/a%2Fb');
    expect(placeOf({ ...item, kind: 'halted-rollout' })).toBe('/rollouts/a%2Fb');
  });
  it('names the device, where it is one', () => {
    for (const kind of ['drift', 'attack', 'failed-deployment', 'device-error'] as const) expect(nameOf({ kind, id: 'press-07' })).toBe('press-07');
    expect(nameOf({ kind: 'halted-rollout', id: 'r' })).toBeUndefined();
    expect(listOf('drift')).toBe('/drift?show=drifted');
    expect(listOf('halted-rollout')).toBe('/rollouts?state=halted');
    expect(listOf('unsigned-version')).toBe('/models?filter=signature%3Aunsigned');
  });
  it('shows something of every kind before more of one', () => {
    const item = (kind: AttentionKind, id: string): Attention => ({ kind, id, title: '', detail: '', at: '' });
    const attacks = Array.from({ length: 10 }, (_unused, index) => item('attack', `a${index}`));
    const drifted = Array.from({ length: 10 }, (_unused, index) => item('drift', `d${index}`));
    const items = [...attacks, item('halted-rollout', 'r'), ...drifted];
    expect(fewOf(items, 6).map((each) => each.id)).toEqual(['a0', 'a1', 'a2', 'r', 'd0', 'd1']);
    expect(fewOf(items, 2).map((each) => each.id)).toEqual(['a0', 'r']);
    expect(fewOf(attacks, 6)).toEqual(attacks.slice(0, 6));
    expect(fewOf([], 6)).toEqual([]);
  });
  it('a fleet is new until everything has been there once', () => {
    const all = { has_devices: true, has_datasets: true, has_labels: true, has_runs: true, has_models: true, has_rollouts: true };
    expect(isNewcomer(all)).toBe(false);
    expect(isNewcomer({ ...all, has_models: false })).toBe(true);
  });
});
