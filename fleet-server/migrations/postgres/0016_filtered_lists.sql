-- Lists of runs and of drift are filtered, ordered and counted by the database.

-- What runs are found by, beside each other. Set when a run is made; runs that were there before get theirs when the server starts.
-- '': not yet.
ALTER TABLE runs ADD COLUMN project_id TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN experiment_name TEXT COLLATE "C" NOT NULL DEFAULT '';
-- Units of the hidden layers: '64,32'.
ALTER TABLE runs ADD COLUMN hidden TEXT COLLATE "C" NOT NULL DEFAULT '';
-- Experiment, cause and id in lower case.
ALTER TABLE runs ADD COLUMN search TEXT COLLATE "C" NOT NULL DEFAULT '';
-- Everything that filters look at: matches are found and counted without reading the rows, which hold JSON.
CREATE INDEX runs_filter ON runs
    (project_id, id, status, experiment_name, dataset_version, cause, hidden, model, search);
-- One for each order; what most filters ask stands in them too, so that skipping to a row far down reads nothing else.
CREATE INDEX runs_by_experiment ON runs (project_id, experiment_name, id, status, dataset_version);
CREATE INDEX runs_by_status ON runs (project_id, status, id, experiment_name, dataset_version);
CREATE INDEX runs_by_cause ON runs (project_id, cause, id, status, experiment_name, dataset_version);

-- A run's numbers: what it was started with, and its metrics once it has finished. Not every run has every one.
CREATE TABLE run_figures (
    run TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run, name)
);
CREATE INDEX run_figures_value ON run_figures (name, value, run);

-- Judgements of a package, wherever it runs; the last ones; and all that filters look at.
CREATE INDEX drift_status_manifest ON drift_status (manifest, device);
CREATE INDEX drift_status_at ON drift_status (at, device, manifest, drifted, line);
CREATE INDEX drift_status_filter ON drift_status (device, manifest, line, drifted, share, alarms, nearest_slice);
