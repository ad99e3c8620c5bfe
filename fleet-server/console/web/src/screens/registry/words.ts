// Packages in words: the manifest read with care (the API gives it as a document of any shape), version numbers, files that
// carry signatures, and the commands that sign. No markup, no server.
import { quoteValue, terms } from '../../lib/filter';
import type { Field } from '../../lib/filter';
import { cli } from '../../lib/shell';

/** The device filter's term for a version, or for any version of a line. */
export function modelTerm(line: string, semver?: string): string {
  return `model:${quoteValue(semver === undefined ? line : `${line}@${semver}`)}`;
}

/** The filter of the devices that run it now: those that have left the fleet do not count. */
export function runningTerm(line: string, semver?: string): string {
  return `${modelTerm(line, semver)} -status:decommissioned`;
}

const SIGNATURES = ['unsigned', 'signed', 'revoked'] as const;

export const FIELDS: readonly Field[] = [{ name: 'signature', help: SIGNATURES.join(', '), values: SIGNATURES }];

/** What the server narrows lines and versions by. */
export interface Narrow {
  signature?: string;
  text?: string;
}

/** The filter as the server can answer it, or what it cannot. */
export function narrowOf(filter: string): { narrow: Narrow; wrong?: string } {
  const narrow: Narrow = {};
  for (const term of terms(filter)) {
    if (term.negated) return { narrow, wrong: 'The registry knows no NOT: ask for one signature state, for a word, or for both.' };
    if (term.field !== undefined && term.field !== 'signature') return { narrow, wrong: `The registry is filtered by signature: and by a word, not by “${term.field}”.` };
    const name = term.field === undefined ? 'text' : 'signature';
    if (narrow[name] !== undefined) return { narrow, wrong: name === 'text' ? 'The registry looks for one word at a time: put several into quotation marks.' : 'signature: stands twice; ask for one state at a time.' };
    narrow[name] = term.value;
  }
  return { narrow };
}

/** The same on the command line, after `models list` or `models versions LINE`. */
export function narrowWords(narrow: Narrow): string[] {
  return [...(narrow.signature === undefined ? [] : [`--signature=${narrow.signature}`]), ...(narrow.text === undefined ? [] : [`--text=${narrow.text}`])];
}

export interface Component {
  kind: string;
  mediaType: string;
  bytes: number;
  digest: string;
}

export interface Tensor {
  name: string;
  datatype: string;
  shape: number[];
}

export interface Manifest {
  components: Component[];
  inputs: Tensor[];
  outputs: Tensor[];
  labels: string[];
  runtime: string | undefined;
  opset: number | undefined;
  minAgent: string | undefined;
  minRam: number | undefined;
  minDisk: number | undefined;
  hardware: string[];
  arch: string[];
  tolerance: number | undefined;
  p95: number | undefined;
  issued: number | undefined;
  expires: number | undefined;
  code: string | undefined;
  datasetDigest: string | undefined;
}

type Loose = Record<string, unknown>;

function object(value: unknown): Loose {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : {};
}

function array(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function word(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}

function words(value: unknown): string[] {
  return array(value).filter((one): one is string => typeof one === 'string');
}

function tensors(value: unknown): Tensor[] {
  return array(value).map((one) => {
    const tensor = object(one);
    return { name: word(tensor.name) ?? '', datatype: word(tensor.datatype) ?? '', shape: array(tensor.shape).map((size) => number(size) ?? -1) };
  });
}

/** What is there is shown, what is missing or of another shape is left out. */
export function readManifest(content: unknown): Manifest {
  const manifest = object(content);
  const header = object(manifest.header);
  const test = object(manifest.self_test);
  const provenance = object(manifest.provenance);
  return {
    components: array(manifest.components).map((one) => {
      const component = object(one);
      const blob = object(component.blob);
      return { kind: word(component.kind) ?? 'other', mediaType: word(component.media_type) ?? '', bytes: number(blob.length) ?? 0, digest: word(blob.sha256) ?? '' };
    }),
    inputs: tensors(manifest.inputs),
    outputs: tensors(manifest.outputs),
    labels: words(manifest.labels),
    runtime: word(manifest.runtime),
    opset: number(manifest.opset),
    minAgent: word(manifest.min_agent),
    minRam: number(manifest.min_ram_bytes),
    minDisk: number(manifest.min_disk_bytes),
    hardware: words(manifest.hardware_classes),
    arch: words(manifest.arch),
    tolerance: number(test.tolerance_abs),
    p95: number(test.p95_budget_us),
    issued: number(header.issued),
    expires: number(header.expires),
    code: word(provenance.code_version),
    datasetDigest: word(provenance.dataset_digest),
  };
}

/** `FP32 [any, 50, 6]` */
export function tensorText(tensor: Tensor): string {
  return `${tensor.datatype} [${tensor.shape.map((size) => (size < 0 ? 'any' : String(size))).join(', ')}]`;
}

/** The next minor version; `1.0.0` when there is none yet or it is not one. */
export function nextVersion(latest: string | null | undefined): string {
  const parts = /^(\d{1,9})\.(\d{1,9})\.(\d{1,9})/.exec(latest ?? '');
  return parts === null ? '1.0.0' : `${parts[1]}.${Number(parts[2]) + 1}.0`;
}

/** Semantic Versioning 2.0.0. */
export function isVersion(text: string): boolean {
  return /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-z-][\da-z-]*)(\.(0|[1-9]\d*|\d*[a-z-][\da-z-]*))*)?(\+[\da-z-]+(\.[\da-z-]+)*)?$/i.test(text);
}

/** Words separated by commas or white space. */
export function splitWords(text: string): string[] {
  return text.split(/[\s,]+/).filter((part) => part !== '');
}

/** A name that is a file name everywhere: what is not a letter, a digit, a dot or a dash becomes a dash. */
export function fileStem(line: string, semver: string): string {
  const stem = `${line}-${semver}`.normalize('NFKD').replace(/[^A-Za-z0-9.+-]+/g, '-').replace(/^[-.]+|-+$/g, '');
  return stem === '' ? 'model' : stem;
}

export interface SigningSteps {
  request: string;
  signed: string;
  export: string;
  apply: string;
  import: string;
}

export function signingSteps(id: string, line: string, semver: string): SigningSteps {
  const stem = fileStem(line, semver);
  const request = `${stem}.json`;
  const signed = `${stem}.signed.json`;
  return {
    request,
    signed,
    export: cli('sign', 'export', id, '-o', request),
    apply: cli('sign', 'apply', request, '--key', 'release.key', '-o', signed),
    import: cli('sign', 'import', id, signed),
  };
}

const FORMAT = 'flotilla.signing-request.v1';

/** The file of `fleetctl sign export`. */
export function signingRequest(
  id: string,
  document: { manifest: string; role: string; schema: string; payload: string; root: string; envelope?: string | null | undefined },
): string {
  const { manifest, role, schema, payload, root, envelope } = document;
  const file = { format: FORMAT, model_version: id, manifest, role, schema, payload, ...(envelope === undefined || envelope === null ? {} : { envelope }), root };
  return `${JSON.stringify(file, null, 2)}\n`;
}

/** The signatures in a file of `fleetctl sign apply`; throws with what is wrong with it. */
export function readSigned(text: string, id: string): string {
  let file: Loose;
  try {
    file = object(JSON.parse(text));
  } catch {
    throw new Error('This file is not JSON: choose the one that fleetctl sign apply wrote.');
  }
  if (file.format !== FORMAT) throw new Error('This is not a signing request: choose the file that fleetctl sign apply wrote.');
  if (file.model_version !== id) throw new Error(`This file is for model version ${String(file.model_version)}, not for this one.`);
  const envelope = word(file.envelope);
  if (envelope === undefined) throw new Error('This file holds no signature yet: sign it with fleetctl sign apply first.');
  return envelope;
}
