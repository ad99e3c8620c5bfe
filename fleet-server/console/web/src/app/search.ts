// What the palette finds on the server.
import { api, unwrap } from '../lib/client';
import { href } from '../lib/router';
import type { PaletteSearch } from '../ui/palette';

export const searchDevices: PaletteSearch = async (text, signal) => {
  const page = await unwrap(api.GET('/api/v1/devices', { params: { query: { q: text, limit: 6 } }, signal }));
  return page.items.map((device) => ({
    label: device.id,
    note: `${device.status} · ${device.hardware_class}`,
    href: href('/devices/:id', { id: device.id }),
    icon: 'devices' as const,
  }));
};
