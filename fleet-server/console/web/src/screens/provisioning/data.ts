// What provisioning asks of the server.
import { useMutation, useQuery, useQueryClient } from '@tanstack/preact-query';
import type { Schema } from '../../lib/client';
import { api, unwrap } from '../../lib/client';

export type ClaimToken = Schema<'ClaimToken'>;
export type CreatedClaimToken = Schema<'CreatedClaimToken'>;
export type CreateClaimToken = Schema<'CreateClaimToken'>;
export type Device = Schema<'Device'>;

const RESOURCE = 'token';
const PAGE = 100;
/** Devices that enrolled last. */
const RECENT = 50;

export function useTokens(cursor: string) {
  return useQuery({
    queryKey: [RESOURCE, 'list', cursor],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/claim-tokens', { params: { query: { limit: PAGE, ...(cursor === '' ? {} : { cursor }) } }, signal })),
  });
}

/** One token, on whatever page of the list it stands. */
export function useToken(id: string, enabled: boolean) {
  return useQuery({
    enabled: enabled && id !== '',
    queryKey: [RESOURCE, 'one', id],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/claim-tokens/{id}', { params: { path: { id } }, signal })),
  });
}

export function useRecent() {
  return useQuery({
    queryKey: ['device', 'recent'],
    queryFn: ({ signal }) => unwrap(api.GET('/api/v1/devices', { params: { query: { sort: '-enrolled_at', limit: RECENT } }, signal })),
  });
}

/** The answer holds the secret: it goes to whoever asked and into no cache. */
export function useCreate() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (body: CreateClaimToken) => unwrap(api.POST('/api/v1/claim-tokens', { body })),
    gcTime: 0,
    onSuccess: () => void client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

export function useRevoke() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async (id: string) => {
      const { error, response } = await api.DELETE('/api/v1/claim-tokens/{id}', { params: { path: { id } } });
      if (!response.ok) await unwrap(Promise.resolve({ error, response }));
    },
    onSuccess: () => client.invalidateQueries({ queryKey: [RESOURCE] }),
  });
}

export type TokenState = 'active' | 'used' | 'expired' | 'revoked';

export function stateOf(token: ClaimToken, now: number): TokenState {
  if (token.revoked) return 'revoked';
  if (token.used >= token.uses) return 'used';
  return Date.parse(token.expires_at) <= now ? 'expired' : 'active';
}

/** Bytes that a QR code of the largest version holds at error correction M. */
const QR_BYTES = 2331;

/**
 * The bundle as it goes into a QR code, without white space. A bundle that is too large (a root with many keys) leaves only
 * what is secret: the rest is the same for every device, and can be on it before.
 */
export function qrText(bundle: Readonly<Record<string, unknown>>): { text: string; whole: boolean } {
  const whole = JSON.stringify(bundle);
  if (new TextEncoder().encode(whole).length <= QR_BYTES) return { text: whole, whole: true };
  return { text: JSON.stringify({ fleet: bundle.fleet, device_api: bundle.device_api, claim_token: bundle.claim_token }), whole: false };
}
