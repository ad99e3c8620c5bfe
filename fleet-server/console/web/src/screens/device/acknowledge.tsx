// Saying that an attack a device reported has been looked at, from wherever its alert is shown.
import type { JSX } from 'preact';
import { useMutation, useQueryClient } from '@tanstack/preact-query';
import { api, unwrap } from '../../lib/client';
import { cli } from '../../lib/shell';
import { ConfirmDialog } from '../../ui/dialog';
import { Ago } from '../../ui/text';
import { toast } from '../../ui/toast';

export interface Attack {
  device: string;
  /** As the person sees it: one that was reported meanwhile is not acknowledged with it. */
  at: string;
  words: string;
  detail: string;
}

function useAcknowledge() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ device, at }: Attack) => unwrap(api.POST('/api/v1/devices/{id}/alerts/acknowledge', { params: { path: { id: device } }, body: { attack_at: at } })),
    // Refused because there is another attack by now: that one has to be seen.
    onSettled: () => client.invalidateQueries({ queryKey: ['device'] }),
  });
}

/** `attack` undefined: the dialog is closed. */
export function AcknowledgeDialog({ attack, onClose }: { attack: Attack | undefined; onClose(): void }): JSX.Element {
  const acknowledge = useAcknowledge();
  return (
    <ConfirmDialog
      open={attack !== undefined}
      title="Acknowledge this attack?"
      confirm="Acknowledge"
      danger={false}
      cli={cli('devices', 'acknowledge', attack?.device)}
      onClose={onClose}
      onConfirm={async () => {
        if (attack === undefined) return;
        await acknowledge.mutateAsync(attack);
        toast(`The attack on ${attack.device} is acknowledged`);
      }}
    >
      {attack === undefined ? null : (
        <>
          <p>
            <bdi class="strong">{attack.device}</bdi> <bdi>{attack.words}</bdi>
            {attack.detail === '' ? null : (
              <>
                : <bdi>{attack.detail}</bdi>
              </>
            )}
          </p>
          <p class="num">
            <Ago time={attack.at} exact />
          </p>
          <p class="muted">Somebody has looked at it: the alert is over until this device reports another attack. The audit log keeps both.</p>
        </>
      )}
    </ConfirmDialog>
  );
}
