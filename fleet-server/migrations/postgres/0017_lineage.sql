-- What was made of a run or of a dataset version is found without looking at every version.
CREATE INDEX model_versions_run ON model_versions (run, id);
CREATE INDEX model_versions_dataset_version ON model_versions (dataset_version, id);
