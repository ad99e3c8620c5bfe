// Beside every file of the build, its brotli and gzip form where that is smaller: the server sends bytes, it compresses none.
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const root = process.env.CONSOLE_OUT ?? 'dist';
const COMPRESSIBLE = /\.(js|css|html|svg|json|txt)$/;

for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !COMPRESSIBLE.test(entry.name)) continue;
  const path = join(entry.parentPath, entry.name);
  const bytes = await readFile(path);
  const forms = {
    br: brotliCompressSync(bytes, {
      params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
    }),
    gz: gzipSync(bytes, { level: 9 }),
  };
  for (const [suffix, packed] of Object.entries(forms)) if (packed.length < bytes.length) await writeFile(`${path}.${suffix}`, packed);
}
