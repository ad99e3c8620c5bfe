-- Failures that somebody looked at before they resumed the rollout are marked one by one: a number would excuse the next failure
-- when one of these devices recovers.
ALTER TABLE deployments ADD COLUMN excused BIGINT NOT NULL DEFAULT 0;
UPDATE deployments SET excused = 1 WHERE state IN ('failure', 'rolled-back')
    AND rollout IN (SELECT id FROM rollouts WHERE excused > 0);
ALTER TABLE rollouts DROP COLUMN excused;
-- Counted with what they are counted by.
DROP INDEX deployments_rollout_state;
CREATE INDEX deployments_rollout_state ON deployments (rollout, state, phase, excused);

-- Of two rollouts that want the same slot of a device, the one that was started later has it.
ALTER TABLE rollouts ADD COLUMN started_at BIGINT;
UPDATE rollouts SET started_at = created_at WHERE state <> 'draft';

-- An aborted rollout whose orders are not all taken back yet.
ALTER TABLE rollouts ADD COLUMN withdrawing BIGINT NOT NULL DEFAULT 0;
CREATE INDEX rollouts_withdrawing ON rollouts (id) WHERE withdrawing = 1;

-- Those that said nothing for longest, first.
CREATE INDEX deployments_quiet ON deployments (rollout, updated_at)
    WHERE state IN ('pending', 'downloading', 'installing', 'verifying', 'soaking');
