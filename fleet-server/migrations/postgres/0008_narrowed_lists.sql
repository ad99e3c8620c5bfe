-- Lists are narrowed and ordered by the database, and alerts of attacks stand until somebody has looked at them.

-- Who did it and to what, as the entry itself says. NULL: entered before these columns were there; filled in when the server
-- starts.
ALTER TABLE audit_log ADD COLUMN actor TEXT COLLATE "C";
ALTER TABLE audit_log ADD COLUMN subject TEXT COLLATE "C";
CREATE INDEX audit_log_actor ON audit_log (actor, idx, at);
CREATE INDEX audit_log_subject ON audit_log (subject, idx, at);
CREATE INDEX audit_log_at ON audit_log (at, idx);

-- When the attack that nobody has acknowledged yet was reported; NULL: there is none.
ALTER TABLE devices ADD COLUMN attacked_at BIGINT;
UPDATE devices SET attacked_at = COALESCE(last_seen, enrolled_at) WHERE attack IS NOT NULL;
CREATE INDEX devices_attacked ON devices (attacked_at) WHERE attacked_at IS NOT NULL;

CREATE INDEX drift_status_share ON drift_status (share DESC, device, manifest, drifted, line);
CREATE INDEX drift_status_drifted_share ON drift_status (drifted, share DESC, device, manifest, line);
CREATE INDEX drift_status_line_share ON drift_status (line, share DESC, device, manifest, drifted);

CREATE INDEX evaluations_made ON evaluations (run, created_at, dataset_version, split);
CREATE INDEX runs_version ON runs (dataset_version, id);
CREATE INDEX model_versions_signature ON model_versions (signature, line);

-- How often labeling functions vote together and against each other, as the last label model found them.
ALTER TABLE label_models ADD COLUMN conflicts TEXT COLLATE "C";
