// A real model for checks: data imported, labelled, trained, packaged and signed through the API and the command line.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { until } from './server.mjs';

/** A model of two classes in four features, `line` 1.0.0; its dataset has the same name and takes in what devices harvest. Gives the version's id. */
export async function signedModel(server, line) {
  const dataset = await server.call('POST', '/api/v1/datasets', {
    name: line,
    labels: ['low', 'high'],
    shape: { kind: 'row', columns: [] },
    split: { kind: 'modulo', column: null, modulus: 4, train: [0, 1, 2], holdout: [3] },
    harvest_line: line,
  });
  const rows = Array.from({ length: 160 }, (_unused, row) => [0, 1, 2, 3].map((column) => ((row % 2) * 3 + Math.sin(row * 7.1 + column * 3.7)).toFixed(4)).join(','));
  const answer = await fetch(`${server.origin}/api/v1/datasets/${dataset.id}/imports`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv' },
    body: `a,b,c,d\n${rows.join('\n')}\n`,
  });
  assert.ok(answer.ok, await answer.text());
  const samples = (await server.call('GET', `/api/v1/datasets/${dataset.id}/samples?values=true&limit=1000`)).items;
  await server.call('POST', `/api/v1/datasets/${dataset.id}/annotations`, {
    annotations: samples.map((sample) => ({ sample: sample.digest, label: sample.values[0] > 1.5 ? 'high' : 'low' })),
  });
  const version = await server.call('POST', `/api/v1/datasets/${dataset.id}/versions`, {});
  const run = await server.call('POST', '/api/v1/runs', {
    experiment: line,
    dataset_version: version.id,
    seed: 1,
    trainer: { kind: 'mlp', hidden: [8], learning_rate: 0.01, weight_decay: 0.0, epochs: 40, batch_size: 16, class_weights: 'none' },
  });
  await until('the run', async () => (await server.call('GET', `/api/v1/runs/${run.id}`)).status === 'FINISHED');
  const model = await server.call('POST', `/api/v1/models/${line}/versions`, { run: run.id, semver: '1.0.0', drift: { window: 32, feature_threshold: 0.25, share_threshold: 0.4 } });
  const unsigned = join(server.folder, `${line}.json`);
  const signed = join(server.folder, `${line}.signed.json`);
  await server.fleetctl('sign', 'export', model.id, '--output', unsigned);
  await server.fleetctl('sign', 'apply', unsigned, '--key', join(server.folder, 'keys', 'release.key'), '--output', signed, '--yes');
  await server.fleetctl('sign', 'import', model.id, signed);
  return model.id;
}
