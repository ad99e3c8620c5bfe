// Builds the console and, while developing, forwards the API to a fleet server (FLOTILLA_SERVER).
import { defineConfig } from 'vite';

const server = process.env.FLOTILLA_SERVER ?? 'http://127.0.0.1:8080';
const forwarded = Object.fromEntries(
  ['/api', '/docs', '/openapi.json'].map((path) => [
    path,
    {
      target: server,
      // A bearer token stands in for a session where the browser harness has none; nothing is sent unless it is set.
      headers: process.env.FLOTILLA_TOKEN === undefined ? {} : { authorization: `Bearer ${process.env.FLOTILLA_TOKEN}` },
    },
  ]),
);

export default defineConfig({
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
  build: {
    // One file: it compresses better than twenty, and no screen waits for its own.
    cssCodeSplit: false,
    outDir: process.env.CONSOLE_OUT ?? 'dist',
    emptyOutDir: true,
    target: 'es2023',
    sourcemap: false,
    reportCompressedSize: false,
    // The server's policy allows no font from a data: address.
    assetsInlineLimit: 0,
    manifest: true,
  },
  server: { proxy: forwarded },
  preview: { proxy: forwarded },
  test: { include: ['{src,scripts}/**/*.test.{ts,tsx}'], environment: 'node' },
} as Parameters<typeof defineConfig>[0]);
