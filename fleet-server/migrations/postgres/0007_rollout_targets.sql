-- Which devices a rollout is still to be given to: those that its target expression selects and that have no deployment of
-- it. Gathered once when the rollout starts, kept up by whoever changes what devices are selected by, gone when it ends.

CREATE TABLE rollout_targets (
    rollout TEXT COLLATE "C" NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    -- Devices are chosen in this order.
    rank BIGINT NOT NULL,
    PRIMARY KEY (rollout, device)
);
CREATE INDEX rollout_targets_rank ON rollout_targets (rollout, rank, device);

-- How far the fleet has been looked at: the last device, and whether that was all of it.
ALTER TABLE rollouts ADD COLUMN selected_to TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE rollouts ADD COLUMN selected BIGINT NOT NULL DEFAULT 0;

-- What a failure has in common with others; only failures have one. Those from before get theirs when the server starts.
ALTER TABLE deployments ADD COLUMN cause TEXT COLLATE "C";
CREATE INDEX deployments_cause ON deployments (rollout, cause, device, state, updated_at) WHERE cause IS NOT NULL;
CREATE INDEX deployments_causeless ON deployments (state, id) WHERE cause IS NULL AND state IN ('failure', 'rolled-back');

-- Counted by state and phase, and listed by state in order of device, without reading the rows.
DROP INDEX deployments_rollout_state;
CREATE INDEX deployments_rollout_state ON deployments (rollout, state, phase);
CREATE INDEX deployments_rollout_device ON deployments (rollout, state, device);
