// Taking a device out of the fleet for good, from its own screen and from lists: asked with its name typed.
import type { JSX } from 'preact';
import { cli } from '../../lib/shell';
import { ConfirmDialog } from '../../ui/dialog';
import { toast } from '../../ui/toast';
import { useDecommission } from './data';

/** `id`: the device that is meant; `undefined`: none, the dialog is closed. */
export function DecommissionDialog({ id, onClose }: { id: string | undefined; onClose(): void }): JSX.Element {
  const decommission = useDecommission();
  return (
    <ConfirmDialog
      open={id !== undefined}
      title="Decommission this device?"
      typed={id ?? ''}
      confirm="Decommission"
      cli={cli('devices', 'decommission', id, '--yes')}
      onClose={onClose}
      onConfirm={async () => {
        if (id === undefined) return;
        await decommission.mutateAsync(id);
        toast(`${id} is decommissioned`);
      }}
    >
      <p>Its connection is cut and its certificate refused for good. It keeps running what it has, but nothing of it is taken any more. This cannot be taken back.</p>
    </ConfirmDialog>
  );
}
