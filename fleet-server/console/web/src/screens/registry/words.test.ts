import { describe, expect, it } from 'vitest';
import { fileStem, isVersion, modelTerm, narrowOf, narrowWords, nextVersion, readManifest, readSigned, signingRequest, signingSteps, tensorText } from './words';

describe('versions', () => {
  it('the next one is a minor one', () => {
    expect([nextVersion('1.1.0'), nextVersion('2.9.3-rc.1'), nextVersion(undefined), nextVersion('today')]).toEqual(['1.2.0', '2.10.0', '1.0.0', '1.0.0']);
  });

  it('are semantic', () => {
    for (const good of ['1.0.0', '0.1.2-rc.1+build.5', '10.20.30-x-y']) expect(isVersion(good)).toBe(true);
    for (const bad of ['', '1.0', 'v1.0.0', '1.0.0-', '01.0.0', '1.0.0-01']) expect(isVersion(bad)).toBe(false);
  });

  it('as the device filter names them', () => {
    expect(modelTerm('motions', '1.0.0')).toBe('model:motions@1.0.0');
    expect(modelTerm('two words')).toBe('model:"two words"');
  });
});

describe('the filter of the registry', () => {
  it('is a signature state, a word, or both', () => {
    expect(narrowOf('')).toEqual({ narrow: {} });
    const { narrow } = narrowOf('signature:unsigned "two words"');
    expect(narrow).toEqual({ signature: 'unsigned', text: 'two words' });
    expect(narrowWords(narrow)).toEqual(['--signature=unsigned', '--text=two words']);
  });

  it('says what it cannot do instead of leaving it out', () => {
    expect(narrowOf('-signature:signed').wrong).toContain('NOT');
    expect(narrowOf('devices:3').wrong).toContain('devices');
    expect(narrowOf('one two').wrong).toContain('one word');
    expect(narrowOf('signature:signed signature:revoked').wrong).toContain('twice');
  });
});

describe('the manifest', () => {
  it('is read whatever its shape', () => {
    for (const content of [undefined, null, [], 'text', { components: 7, inputs: [null], labels: [1, 'a'] }]) expect(() => readManifest(content)).not.toThrow();
    expect(readManifest({ labels: [1, 'a'] }).labels).toEqual(['a']);
  });

  it('gives components, tensors and times', () => {
    const manifest = readManifest({
      components: [{ kind: 'model', media_type: 'application/vnd.onnx', blob: { length: 4522, sha256: 'sha256:0d00' } }],
      inputs: [{ name: 'input', datatype: 'FP32', shape: [-1, 50, 6] }],
      header: { issued: 1, expires: 2 },
      self_test: { tolerance_abs: 1e-4 },
    });
    expect(manifest.components).toEqual([{ kind: 'model', mediaType: 'application/vnd.onnx', bytes: 4522, digest: 'sha256:0d00' }]);
    expect(manifest.inputs.map(tensorText)).toEqual(['FP32 [any, 50, 6]']);
    expect([manifest.expires, manifest.tolerance]).toEqual([2, 1e-4]);
  });
});

describe('signing', () => {
  const document = { manifest: 'sha256:ab', role: 'release/m', schema: 's', payload: 'cGF5', root: 'cm9vdA==' };

  it('what is saved is what fleetctl writes; without signatures there is nothing to import', () => {
    const file = signingRequest('id-1', document);
    expect(JSON.parse(file)).toEqual({ format: 'flotilla.signing-request.v1', model_version: 'id-1', ...document });
    expect(() => readSigned(file, 'id-1')).toThrow('no signature yet');
    expect(readSigned(signingRequest('id-1', { ...document, envelope: 'ZW52' }), 'id-1')).toBe('ZW52');
  });

  it('a file for another version, of another kind or not JSON is refused in words', () => {
    const file = signingRequest('id-1', { ...document, envelope: 'ZW52' });
    expect(() => readSigned(file, 'id-2')).toThrow('for model version id-1');
    expect(() => readSigned('{}', 'id-1')).toThrow('not a signing request');
    expect(() => readSigned('x', 'id-1')).toThrow('not JSON');
  });

  it('the three commands name the same files, which are safe anywhere', () => {
    const steps = signingSteps('id-1', '../evil line', '1.0.0');
    expect(steps.apply).toBe(`fleetctl sign apply ${steps.request} --key release.key -o ${steps.signed}`);
    expect(steps.request).toBe('evil-line-1.0.0.json');
    expect(fileStem('🦊', '')).toBe('model');
  });
});
