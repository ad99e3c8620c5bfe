-- Failures that no longer count against a rollout: those that were there when somebody resumed it after a failed gate.
ALTER TABLE rollouts ADD COLUMN excused BIGINT NOT NULL DEFAULT 0;

-- Samples taken of a device and a package, against what the rollout allows.
CREATE TABLE harvested (
    device TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    taken BIGINT NOT NULL,
    PRIMARY KEY (device, manifest)
);
