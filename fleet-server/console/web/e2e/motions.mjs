// The demo's real recordings (cli/demo/data/basic_motions.csv) as a dataset, a first model and a device's sensor: four
// activities from a watch, which somebody then straps on differently.
import { readFile } from 'node:fs/promises';
import { finished, signed } from './model.mjs';

const DEMO = new URL('../../../cli/demo/', import.meta.url);
export const LINE = 'motions';
const CHANNELS = ['accel_x', 'accel_y', 'accel_z', 'gyro_x', 'gyro_y', 'gyro_z'];
export const WINDOW = 50;
/** Of one sample, as a device takes it. */
export const SHAPE = [WINDOW, CHANNELS.length];
const SPLIT = { kind: 'modulo', column: 'case', modulus: 10, train: [0, 1, 2, 3], holdout: [4, 5, 6] };
const TRAINER = { kind: 'mlp', hidden: [32], learning_rate: 0.01, weight_decay: 0.1, epochs: 150, batch_size: 16, class_weights: 'none' };
/** How often the watch has been turned on the wrist: x, y, z lie where y, z, x lay. */
const TURNS = [0, 1, 2];

const csv = await readFile(new URL('data/basic_motions.csv', DEMO), 'utf8');

function recordings() {
  const [header, ...lines] = csv.trim().split('\n').map((line) => line.split(','));
  const at = (name) => header.indexOf(name);
  const cases = new Map();
  for (const line of lines) {
    const name = `${line[at('split')]}/${line[at('case')]}`;
    if (!cases.has(name)) cases.set(name, { residue: Number(line[at('case')]) % SPLIT.modulus, truth: line[at('activity')], rows: [] });
    cases.get(name).rows.push(CHANNELS.map((channel) => Math.fround(Number(line[at(channel)]))));
  }
  return [...cases.values()];
}

function turned(row, turns) {
  return row.map((_value, channel) => row[Math.floor(channel / 3) * 3 + ((channel + turns) % 3)]);
}

const SAMPLES = recordings().flatMap((recording) =>
  TURNS.flatMap((turns) =>
    Array.from({ length: Math.floor(recording.rows.length / WINDOW) }, (_unused, index) => ({
      turns,
      truth: recording.truth,
      // What is in neither list of the split is seen by devices alone.
      field: ![...SPLIT.train, ...SPLIT.holdout].includes(recording.residue),
      values: recording.rows.slice(index * WINDOW, (index + 1) * WINDOW).flatMap((row) => turned(row, turns)),
    })),
  ),
);

const key = (values) => Buffer.from(Float32Array.from(values).buffer).toString('base64');
const TRUTH = new Map(SAMPLES.map((sample) => [key(sample.values), sample.truth]));

/** What a device sees whose watch was turned so often. */
export function field(turns) {
  return SAMPLES.filter((sample) => sample.field && sample.turns === turns).map((sample) => sample.values);
}

/** What a person would say of samples of the server: by digest. */
export function truthOf(samples) {
  return new Map(
    samples.map((sample) => {
      const truth = TRUTH.get(key(sample.values));
      if (truth === undefined) throw new Error(`sample ${sample.key} is not among the recordings`);
      return [sample.digest, truth];
    }),
  );
}

async function labelingFunctions() {
  const text = await readFile(new URL('motions.toml', DEMO), 'utf8');
  return [...text.matchAll(/\[\[labeling_functions\]\]\nname = "(.+)"\nwhen = '(.+)'\nlabel = "(.+)"/g)].map(([, name, when, label]) => ({ name, when, label }));
}

/** The recordings as a dataset, nothing of it labelled. */
export async function importRecordings(server) {
  const { id } = await server.call('POST', '/api/v1/datasets', {
    name: LINE,
    labels: ['standing', 'walking', 'running', 'badminton'],
    drop_columns: ['activity'],
    harvest_line: LINE,
    shape: {
      kind: 'series', case_columns: ['split', 'case'], order_column: 'step', channels: CHANNELS, window: WINDOW, hop: WINDOW, rate_hz: 10,
      statistics: ['mean', 'std', 'spectral_energy_low', 'spectral_energy_high'],
    },
    split: SPLIT,
  });
  const path = `/api/v1/datasets/${id}`;
  const answer = await fetch(`${server.origin}${path}/imports`, { method: 'POST', headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv' }, body: csv });
  if (!answer.ok) throw new Error(await answer.text());
  return server.call('GET', path);
}

/** Imported, labelled by functions and (what is held out) by hand, trained, signed: version 1.0.0. Gives its id. */
export async function firstModel(server) {
  const path = `/api/v1/datasets/${(await importRecordings(server)).id}`;
  for (const body of await labelingFunctions()) await server.call('POST', `${path}/labeling-functions`, body);
  const held = (await server.call('GET', `${path}/samples?split=holdout&values=true&limit=1000`)).items;
  await server.call('POST', `${path}/annotations`, { annotations: [...truthOf(held)].map(([sample, label]) => ({ sample, label })) });
  const { job } = await server.call('POST', `${path}/label-model`, {});
  for (;;) {
    const { state, error } = await server.call('GET', `/api/v1/jobs/${job}?wait_ms=2000`);
    if (state === 'succeeded') break;
    if (state === 'failed' || state === 'cancelled') throw new Error(`the label model: ${error}`);
  }
  const version = await server.call('POST', `${path}/versions`, {});
  const run = await server.call('POST', '/api/v1/runs', { experiment: LINE, dataset_version: version.id, seed: 1, trainer: TRAINER });
  await finished(server, run.id);
  return signed(server, LINE, { run: run.id, semver: '1.0.0', drift: { window: 96, feature_threshold: 0.25, share_threshold: 0.4 } });
}
