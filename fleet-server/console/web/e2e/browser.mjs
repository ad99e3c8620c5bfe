// Debian's Chromium, driven by playwright-core, and what every check needs of a page.
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** A browser with a profile of its own; `close` removes it. */
export async function openBrowser(options = {}) {
  const profile = await mkdtemp(join(tmpdir(), 'flotilla-console-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: FLAGS,
    viewport: { width: 1440, height: 900 },
    ...options,
  });
  return {
    context,
    profile,
    async close() {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml', png: 'image/png', woff2: 'font/woff2', json: 'application/json', txt: 'text/plain' };

/**
 * Gives the browser the files of a build in `folder` in place of those that the server holds, under the server's own policy:
 * a change to the console is looked at without building the server.
 */
export async function serveBuild(context, origin, folder) {
  const policy = (await fetch(`${origin}/`)).headers.get('content-security-policy');
  await context.route(`${origin}/**`, async (route) => {
    const { pathname } = new URL(route.request().url());
    if (/^\/(api|docs)\/|^\/openapi\.json$/.test(pathname)) return route.fallback();
    const named = join(folder, pathname);
    const path = /\.[a-z0-9]+$/.test(pathname) && (await stat(named).catch(() => undefined))?.isFile() ? named : join(folder, 'index.html');
    return route.fulfill({ path, contentType: TYPES[path.split('.').at(-1)], headers: { 'content-security-policy': policy, 'content-type': TYPES[path.split('.').at(-1)] } });
  });
}

/** Fails the check on anything the console should never do: errors, policy violations, requests to other origins. */
export function watch(page, origin) {
  const wrong = [];
  page.on('pageerror', (error) => wrong.push(`page error: ${error.message}`));
  page.on('console', (message) => {
    if (/Content Security Policy|Refused to/.test(message.text())) wrong.push(`policy: ${message.text()}`);
  });
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith('http') && url.origin !== origin) wrong.push(`request to ${url.origin}`);
  });
  return wrong;
}
