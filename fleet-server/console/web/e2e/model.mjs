// A real model for checks: data imported, labelled, trained, packaged and signed through the API and the command line; and
// data for the device that runs it.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from './server.mjs';

/** 160 rows of two classes in four features, nothing of it labelled. Gives the dataset, which takes in what devices of its line harvest. */
export async function importRows(server, line, { labels = ['low', 'high'], columns = ['a', 'b', 'c', 'd'] } = {}) {
  const dataset = await server.call('POST', '/api/v1/datasets', {
    name: line,
    labels,
    shape: { kind: 'row', columns: [] },
    split: { kind: 'modulo', column: null, modulus: 4, train: [0, 1, 2], holdout: [3] },
    harvest_line: line,
  });
  const rows = Array.from({ length: 160 }, (_unused, row) => [0, 1, 2, 3].map((column) => ((row % 2) * 3 + Math.sin(row * 7.1 + column * 3.7)).toFixed(4)).join(','));
  const answer = await fetch(`${server.origin}/api/v1/datasets/${dataset.id}/imports`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv' },
    body: `${columns.map((column) => `"${column.replaceAll('"', '""')}"`).join(',')}\n${rows.join('\n')}\n`,
  });
  assert.ok(answer.ok, await answer.text());
  return dataset;
}

/** Labels the rows by hand, as what they are. */
export async function labelRows(server, dataset) {
  const samples = (await server.call('GET', `/api/v1/datasets/${dataset.id}/samples?values=true&limit=1000`)).items;
  await server.call('POST', `/api/v1/datasets/${dataset.id}/annotations`, {
    annotations: samples.map((sample) => ({ sample: sample.digest, label: dataset.labels[sample.values[0] > 1.5 ? 1 : 0] })),
  });
}

/** Freezes what is labelled and trains on it. Gives the run's id. */
export async function trainRows(server, dataset, experiment) {
  const version = await server.call('POST', `/api/v1/datasets/${dataset.id}/versions`, {});
  const run = await server.call('POST', '/api/v1/runs', {
    experiment,
    dataset_version: version.id,
    seed: 1,
    trainer: { kind: 'mlp', hidden: [8], learning_rate: 0.01, weight_decay: 0.0, epochs: 40, batch_size: 16, class_weights: 'none' },
  });
  await finished(server, run.id);
  return run.id;
}

const DRIFT = { window: 32, feature_threshold: 0.25, share_threshold: 0.4 };

/**
 * A model of two classes in four features, `line` 1.0.0; its dataset has the same name and takes in what devices harvest. Gives
 * the version's id. `labels`, `columns` (as in a CSV file) and `experiment` are its names for them.
 */
export async function signedModel(server, line, { experiment = line, ...names } = {}) {
  const dataset = await importRows(server, line, names);
  await labelRows(server, dataset);
  return signed(server, line, { run: await trainRows(server, dataset, experiment), semver: '1.0.0' });
}

/** Waits for a run's end, which must be a good one. */
export async function finished(server, run) {
  await until('the run', async () => {
    const { status, error } = await server.call('GET', `/api/v1/runs/${run}`);
    assert.ok(status !== 'FAILED' && status !== 'KILLED', `run ${run}: ${status} ${error ?? ''}`);
    return status === 'FINISHED';
  });
}

/** Packages a finished run and has it signed with the key that the server never sees. Gives the version's id. */
export async function signed(server, line, { drift = DRIFT, ...asked }) {
  const body = { drift, ...asked };
  const { id } = await server.call('POST', `/api/v1/models/${line}/versions`, body);
  const request = join(server.folder, `${line}-${body.semver}.json`);
  const answer = join(server.folder, `${line}-${body.semver}.signed.json`);
  await server.fleetctl('sign', 'export', id, '--output', request);
  await server.fleetctl('sign', 'apply', request, '--key', releaseKey(server), '--output', answer, '--yes');
  await server.fleetctl('sign', 'import', id, answer);
  return id;
}

export const releaseKey = (server) => join(server.folder, 'keys', 'release.key');

/** Gives a device samples to judge, over its own inference protocol; `shape` is that of one. */
export async function infer(server, device, samples, shape) {
  const address = (await readFile(join(server.folder, device, 'rest.addr'), 'utf8')).trim();
  // The slot's name finds whatever model is active in it.
  const model = `http://${address}/v2/models/main`;
  const { inputs } = await (await fetch(model)).json();
  const answer = await fetch(`${model}/infer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ inputs: [{ name: inputs[0].name, datatype: 'FP32', shape: [samples.length, ...shape], data: samples.flat() }] }),
  });
  if (!answer.ok) throw new Error(await answer.text());
}
