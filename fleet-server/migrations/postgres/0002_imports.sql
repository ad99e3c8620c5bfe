-- Imports write in many short transactions; what they bring is seen once the whole file is in. The tables that only grew
-- are pruned by age.
-- The PostgreSQL file differs in the type of byte strings and says COLLATE "C" of text.

CREATE TABLE imports (
    id TEXT COLLATE "C" PRIMARY KEY,
    dataset TEXT COLLATE "C" NOT NULL,
    slice TEXT COLLATE "C" NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    -- receiving, reading; then finished, failed or cancelled for ever.
    state TEXT COLLATE "C" NOT NULL,
    bytes_total BIGINT,
    bytes_received BIGINT NOT NULL,
    bytes_read BIGINT NOT NULL,
    lines_read BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    error TEXT COLLATE "C",
    report TEXT COLLATE "C",
    -- 1 while samples of an import that came to nothing may still lie there.
    staged BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX imports_dataset ON imports (dataset, id);
CREATE INDEX imports_time ON imports (created_at);
-- One at a time for each dataset: two that bring the same sample could not both keep it.
CREATE UNIQUE INDEX imports_running ON imports (dataset) WHERE state IN ('receiving', 'reading');

ALTER TABLE samples RENAME TO stored_samples;
-- NULL: harvested.
ALTER TABLE stored_samples ADD COLUMN import_id TEXT COLLATE "C";
CREATE INDEX stored_samples_import ON stored_samples (import_id, split);

-- What everybody reads: without the samples of imports that are under way or came to nothing.
CREATE VIEW samples AS
    SELECT s.dataset, s.digest, s.ordinal, s.sample_key, s.slice, s.split, s.device, s.predicted, s.raw, s.created_at
    FROM stored_samples s
    WHERE NOT EXISTS (SELECT 1 FROM imports i WHERE i.id = s.import_id AND i.state <> 'finished');

CREATE INDEX device_records_time ON device_records (received_at);
CREATE INDEX idempotency_keys_time ON idempotency_keys (created_at);
CREATE INDEX sketches_manifest ON sketches (manifest, hour);
