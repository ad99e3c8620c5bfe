import { describe, expect, it } from 'vitest';
import type { Run } from './data';
import { askable } from './typing';
import { better, CLOSED, confusions, curves, extent, fieldsOf, listLine, NEWEST, overlay, parseHidden, parseNumber, settings, startLine } from './words';

function run(patch: Partial<Run> = {}): Run {
  return {
    id: '01a2071b-0aaa-7542-b0b0-06565af6135a',
    experiment: 'motions',
    dataset_version: 'version',
    trainer: { kind: 'mlp', hidden: [32], learning_rate: 0.01, weight_decay: 0.1, epochs: 150, batch_size: 16, class_weights: 'none' },
    seed: 5,
    cause: 'drift',
    status: 'FINISHED',
    job: 'job',
    metrics: { 'holdout.accuracy': 0.979, 'holdout.log_loss': 0.02, duration_s: 12 },
    created_at: '2026-11-23T06:32:22.442Z',
    ...patch,
  };
}

describe('the list', () => {
  it('suggests what its rows say, each once', () => {
    const named = run({ id: 'b', dataset_version_name: { dataset: 'd', name: 'clouds', number: 3 } });
    const values = (name: string): readonly string[] | undefined => fieldsOf([run(), named, named]).find((field) => field.name === name)?.values;
    expect(values('experiment')).toEqual(['motions']);
    expect(values('dataset')).toEqual(['clouds']);
    expect(values('status')).toContain('cancelled');
    expect(fieldsOf([]).every((field) => field.help !== '')).toBe(true);
  });

  it('asks for no word that is only begun', () => {
    const asked = (text: string): string => askable(text, CLOSED);
    for (const begun of ['accuracy:>', 'accuracy:>=', 'seed:=', '-loss:<-', 'status:', 'status:fin', '-status:F']) expect(asked(`fox ${begun}`)).toBe('fox');
    for (const whole of ['accuracy:>0', 'status:finished', 'experiment:fin', 'fin', 'status:sick', 'accuracy:>0.9 ', 'status:fin ']) expect(asked(whole)).toBe(whole.trim());
    expect(asked('NOT status:failed')).toBe('-status:failed');
  });

  it('is the same on the command line', () => {
    expect(listLine('', NEWEST)).toBe('fleetctl runs list');
    expect(listLine('-status:failed experiment:"my runs"', '-accuracy')).toBe(`fleetctl runs list --filter '-status:failed experiment:"my runs"' --sort=-accuracy`);
  });
});

describe('curves', () => {
  const points = [
    { name: 'train.loss', step: 3, value: 0.5 },
    { name: 'train.loss', step: 1, value: 2 },
    { name: 'train.accuracy', step: 1, value: 0.4 },
    { name: 'train.loss', step: 2, value: 0.25 },
    { name: 'train.loss', step: 2, value: 0.25 },
  ];

  it('are in the order of their steps, each step once', () => {
    expect(curves(points)).toEqual([
      { name: 'train.accuracy', steps: [1], values: [0.4] },
      { name: 'train.loss', steps: [1, 2, 3], values: [2, 0.25, 0.5] },
    ]);
  });

  it('say where the extremes are and what came last; not a number is no extreme', () => {
    expect(extent({ name: 'a', steps: [1, 2, 3, 4], values: [2, 0.25, Number.NaN, 0.5] })).toEqual({ min: 0.25, minAt: 2, max: 2, maxAt: 1, last: 0.5 });
    expect(extent({ name: 'a', steps: [], values: [] })).toBeUndefined();
  });

  it('laid over one another leave gaps where one has no value', () => {
    const parts = [
      { label: 'a', curve: { name: 'l', steps: [1, 3], values: [1, 3] } },
      { label: 'b', curve: { name: 'l', steps: [2], values: [5] } },
    ];
    expect(overlay(parts)).toEqual({
      x: [1, 2, 3],
      lines: [
        { label: 'a', y: [1, null, 3] },
        { label: 'b', y: [null, 5, null] },
      ],
    });
  });

  it('know which way is better', () => {
    expect([better('holdout.accuracy'), better('train.loss'), better('holdout.ece'), better('duration_s')]).toEqual(['more', 'less', 'less', undefined]);
  });
});

describe('what is typed', () => {
  it('layers are whole numbers within what the server takes', () => {
    expect(parseHidden('64, 32')).toEqual([64, 32]);
    for (const text of ['', '0', '1.5', '-4', '64 x', '4097', '1 1 1 1 1 1 1 1 1']) expect(parseHidden(text)).toBeUndefined();
  });

  it('numbers are decimal and nothing else', () => {
    expect([parseNumber(' 1e-3 '), parseNumber('.5'), parseNumber('0')]).toEqual([0.001, 0.5, 0]);
    for (const text of ['', ' ', '0x10', '1,5', 'Infinity', '1e']) expect(parseNumber(text)).toBeUndefined();
  });
});

describe('words of a run', () => {
  it('the command line starts the same run, whatever the experiment is called', () => {
    expect(startLine(run({ experiment: "-it's", trainer: { ...run().trainer, hidden: [64, 32], class_weights: 'balanced' } }))).toBe(
      "fleetctl runs create '--experiment=-it'\\''s' --dataset-version version --hidden 64,32 --learning-rate=0.01 --weight-decay=0.1 --epochs 150 --batch-size 16 --class-weights balanced --seed 5",
    );
  });

  it('every setting stands at the same place in every run', () => {
    expect(settings(run()).map(([name]) => name)).toEqual(settings(run({ seed: 9 })).map(([name]) => name));
  });

  it('confusions leave the diagonal out, the most frequent first', () => {
    expect(
      confusions(
        [
          [5, 1],
          [3, 0],
        ],
        ['a', 'b'],
      ),
    ).toEqual([
      { truth: 'b', predicted: 'a', count: 3 },
      { truth: 'a', predicted: 'b', count: 1 },
    ]);
  });
});
