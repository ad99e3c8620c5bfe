-- A key is taken before its request runs, and held for as long as it runs: 'running', 'done', or 'withheld' where the
-- answer had a secret, which is not kept. Answers kept so far may have secrets in them: they go.
DELETE FROM idempotency_keys;
ALTER TABLE idempotency_keys ADD COLUMN state TEXT COLLATE "C" NOT NULL DEFAULT 'done';
ALTER TABLE idempotency_keys ADD COLUMN holder TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE idempotency_keys ADD COLUMN held_until BIGINT NOT NULL DEFAULT 0;
