// A dataset version to train on and runs of it, made through the public API.

const made = new WeakMap();

/** Two clouds of points, labelled by hand: small enough that a run takes a moment. Made once for each server. */
export function datasetVersion(server) {
  if (!made.has(server)) made.set(server, make(server));
  return made.get(server);
}

async function make(server) {
  const dataset = await server.call('POST', '/api/v1/datasets', {
    name: 'clouds',
    labels: ['left', 'right'],
    shape: { kind: 'row', columns: ['a', 'b'] },
    split: { kind: 'modulo', modulus: 4, train: [0, 1, 2], holdout: [3] },
  });
  const rows = Array.from({ length: 80 }, (_unused, at) => `${at % 2 === 0 ? -2 : 2}.${(at * 37) % 90},${(at * 53) % 17}`);
  const response = await fetch(`${server.origin}/api/v1/datasets/${dataset.id}/imports`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'text/csv' },
    body: `a,b\n${rows.join('\n')}\n`,
  });
  if (!response.ok) throw new Error(`the import was refused: ${await response.text()}`);
  const { items } = await server.call('GET', `/api/v1/datasets/${dataset.id}/samples?values=true&limit=200`);
  await server.call('POST', `/api/v1/datasets/${dataset.id}/annotations`, {
    annotations: items.map((sample) => ({ sample: sample.digest, label: sample.values[0] < 0 ? 'left' : 'right' })),
  });
  const version = await server.call('POST', `/api/v1/datasets/${dataset.id}/versions`, { note: 'two clouds' });
  return { dataset, version };
}

export async function startRun(server, patch = {}) {
  const { version } = await datasetVersion(server);
  const { trainer, ...rest } = patch;
  return server.call('POST', '/api/v1/runs', {
    experiment: 'clouds',
    dataset_version: version.id,
    seed: 1,
    trainer: { kind: 'mlp', hidden: [8], learning_rate: 0.01, weight_decay: 0.1, epochs: 20, batch_size: 16, ...trainer },
    ...rest,
  });
}

/** A run that has ended, waited for through its job. */
export async function finishedRun(server, patch = {}) {
  const started = await startRun(server, patch);
  for (;;) {
    const run = await server.call('GET', `/api/v1/runs/${started.id}`);
    if (run.status === 'FINISHED') return run;
    if (run.status === 'FAILED' || run.status === 'KILLED') throw new Error(`run ${run.id}: ${run.status} ${run.error ?? ''}`);
    await server.call('GET', `/api/v1/jobs/${run.job}?wait_ms=2000`);
  }
}
