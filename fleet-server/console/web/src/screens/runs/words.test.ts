import { describe, expect, it } from 'vitest';
import { terms } from '../../lib/filter';
import type { Run } from './data';
import { better, confusions, curves, extent, listLine, matches, overlay, parseHidden, parseNumber, questionOf, settings, sorted, startLine, unknownField } from './words';

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

const found = (filter: string, one = run()): boolean => matches(one, terms(filter));

describe('the filter of runs', () => {
  it('compares figures, and a run without the figure matches none of them', () => {
    expect(found('accuracy:>0.95')).toBe(true);
    expect(found('accuracy:>=0.979')).toBe(true);
    expect(found('accuracy:<0.9')).toBe(false);
    expect(found('accuracy:>0', run({ metrics: {} }))).toBe(false);
    expect(found('accuracy:good')).toBe(false);
  });

  it('knows states by the words that are shown, NOT, beginnings and free text', () => {
    expect(found('status:cancelled', run({ status: 'KILLED' }))).toBe(true);
    expect(found('-status:failed')).toBe(true);
    expect(found('experiment:mot*')).toBe(true);
    expect(found('OTION cause:drift')).toBe(true);
    expect(found('hidden:"64,32"', run({ trainer: { ...run().trainer, hidden: [64, 32] } }))).toBe(true);
  });

  it('names a field that runs have not', () => {
    expect(unknownField('acuracy:>0.9')).toBe('acuracy');
    expect(unknownField('plain seed:3')).toBeUndefined();
  });

  it('leaves to the server what it can answer as it is meant, and keeps the rest', () => {
    const version = '01a2071b-0e63-71f4-9070-6160c286f9ef';
    const { question, left } = questionOf(`experiment:"my runs" status:Cancelled version:${version} foxes seed:1`);
    expect(question).toEqual({ experiment: 'my runs', status: 'KILLED', dataset_version: version, text: 'foxes' });
    expect(left.map((term) => term.field)).toEqual(['seed']);
    for (const filter of ['experiment:mot*', '-experiment:a', 'status:fail*', '-status:failed', 'version:abc', '-foxes', 'cause:drift']) expect(questionOf(filter)).toMatchObject({ question: {}, left: [{}] });
    expect(questionOf('experiment:a experiment:b two words')).toMatchObject({ question: { experiment: 'a', text: 'two' }, left: [{ value: 'b' }, { value: 'words' }] });
  });

  it('is the same on the command line', () => {
    expect(listLine({})).toBe('fleetctl runs list');
    expect(listLine({ experiment: 'my runs', status: 'KILLED', text: '-x' })).toBe("fleetctl runs list '--experiment=my runs' --status killed --text=-x");
  });
});

describe('order', () => {
  it('puts what has no value last in both directions', () => {
    const runs = [run({ id: 'none', metrics: {} }), run({ id: 'low', metrics: { 'holdout.accuracy': 0.5 } }), run({ id: 'high', metrics: { 'holdout.accuracy': 1 } })];
    expect(sorted(runs, '-accuracy').map((one) => one.id)).toEqual(['high', 'low', 'none']);
    expect(sorted(runs, 'accuracy').map((one) => one.id)).toEqual(['low', 'high', 'none']);
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
