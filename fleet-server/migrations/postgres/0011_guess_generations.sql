-- A job that failed waits before it is tried again. Guesses are written in many short transactions under a generation of
-- their own, and published by changing the one row that names the dataset's generation.
-- The PostgreSQL file differs in the type of byte strings and says COLLATE "C" of text.

-- Unix milliseconds; 0: at once.
ALTER TABLE jobs ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;

CREATE TABLE stored_guesses (
    dataset TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    label TEXT COLLATE "C" NOT NULL,
    confidence DOUBLE PRECISION NOT NULL,
    -- The digest first: whoever looks for a sample's guess does not know the generation.
    PRIMARY KEY (dataset, digest, generation)
);
INSERT INTO stored_guesses (dataset, generation, digest, label, confidence)
    SELECT dataset, 0, digest, label, confidence FROM guesses;
DROP TABLE guesses;
CREATE INDEX stored_guesses_generation ON stored_guesses (dataset, generation, digest);

-- Every generation of which rows may lie there, and the claim that writes or wrote it.
CREATE TABLE guess_generations (
    dataset TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    job TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (dataset, generation)
);
INSERT INTO guess_generations (dataset, generation, job, epoch) SELECT dataset, 0, '', 0 FROM label_models;

-- The published one.
ALTER TABLE label_models ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;

-- What everybody reads.
CREATE VIEW guesses AS
    SELECT g.dataset, g.digest, g.label, g.confidence
    FROM stored_guesses g
    WHERE g.generation = (SELECT m.generation FROM label_models m WHERE m.dataset = g.dataset);
