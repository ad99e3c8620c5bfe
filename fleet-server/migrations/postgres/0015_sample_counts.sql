-- Samples are counted by slice without reading their rows, which hold the values.
CREATE INDEX stored_samples_slice ON stored_samples (dataset, slice, import_id);
