// What the session screen asks of the server.
import { useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';

export type SessionInfo = Schema<'SessionInfo'>;

const RESOURCE = 'session';
const PAGE = 100;

export function useSessions(cursor: string) {
  return useQuery({
    queryKey: [RESOURCE, 'list', cursor],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/sessions', { params: { query: { limit: PAGE, ...(cursor === '' ? {} : { cursor }) } }, signal })),
  });
}

export function useRevoke() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async (id: string) => {
      const { error, response } = await api.DELETE('/api/v1/sessions/{id}', { params: { path: { id } } });
      if (!response.ok) await unwrap(Promise.resolve({ error, response }));
    },
    onSuccess: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

const BROWSERS: readonly (readonly [RegExp, string])[] = [
  [/\bEdg(?:A|iOS)?\/(\d+)/, 'Edge'],
  [/\bOPR\/(\d+)/, 'Opera'],
  [/\bFirefox\/(\d+)/, 'Firefox'],
  [/\bFxiOS\/(\d+)/, 'Firefox'],
  [/\b(?:Headless)?Chrome\/(\d+)/, 'Chrome'],
  [/\bCriOS\/(\d+)/, 'Chrome'],
  [/\bVersion\/(\d+)[\d.]* (?:Mobile\/\S+ )?Safari\//, 'Safari'],
];

const SYSTEMS: readonly (readonly [RegExp, string])[] = [
  [/Android/, 'Android'],
  [/iPhone|iPad/, 'iOS'],
  [/Windows/, 'Windows'],
  [/Mac OS X/, 'macOS'],
  [/CrOS/, 'ChromeOS'],
  [/Linux/, 'Linux'],
];

/** `Firefox 140 on Linux`, or what the browser called itself when that is nothing known. */
export function browserName(agent: string): string {
  const system = SYSTEMS.find(([pattern]) => pattern.test(agent))?.[1];
  for (const [pattern, name] of BROWSERS) {
    const version = pattern.exec(agent)?.[1];
    if (version !== undefined) return `${name} ${version}${system === undefined ? '' : ` on ${system}`}`;
  }
  return agent === '' ? 'Unknown browser' : agent;
}
