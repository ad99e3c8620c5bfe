-- The loop's tables. Times are Unix milliseconds; ids are UUIDs or names; digests are 'sha256:<hex>'; JSON stands in TEXT.
-- The SQLite file differs in the type of byte strings alone.

CREATE TABLE fleet (
    name TEXT NOT NULL
);

CREATE TABLE documents (
    kind TEXT NOT NULL,
    version BIGINT NOT NULL,
    envelope BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (kind, version)
);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    roles TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE idempotency_keys (
    actor TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request TEXT NOT NULL,
    status BIGINT NOT NULL,
    body BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (actor, idempotency_key)
);

CREATE TABLE claim_tokens (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    uses BIGINT NOT NULL,
    used BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    tags TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    thumbprint TEXT NOT NULL UNIQUE,
    signing_key BYTEA NOT NULL,
    wrapping_key BYTEA NOT NULL,
    certificate_digest TEXT NOT NULL,
    claim_token TEXT NOT NULL,
    tags TEXT NOT NULL,
    hardware_class TEXT NOT NULL,
    arch TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    ram_bytes BIGINT NOT NULL,
    disk_free_bytes BIGINT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    connected BIGINT NOT NULL,
    last_seen BIGINT,
    boot_count BIGINT NOT NULL,
    report_counter BIGINT NOT NULL,
    report BYTEA,
    error TEXT,
    attack TEXT,
    desired_version BIGINT NOT NULL,
    desired BYTEA,
    -- When the stored desired state lapses, Unix milliseconds; 0 before the first one.
    desired_expires BIGINT NOT NULL,
    desired_stale BIGINT NOT NULL
);
CREATE INDEX devices_stale ON devices (desired_stale, id);

CREATE TABLE device_slots (
    device TEXT NOT NULL,
    slot TEXT NOT NULL,
    line TEXT NOT NULL,
    manifest TEXT NOT NULL,
    semver TEXT NOT NULL,
    release_counter BIGINT NOT NULL,
    committed BIGINT NOT NULL,
    PRIMARY KEY (device, slot)
);

CREATE TABLE targets (
    device TEXT NOT NULL,
    slot TEXT NOT NULL,
    deployment TEXT NOT NULL,
    model_version TEXT NOT NULL,
    PRIMARY KEY (device, slot)
);

-- What was counted, so that nothing is counted twice. Time first: appended in time order.
CREATE TABLE device_records (
    received_at BIGINT NOT NULL,
    device TEXT NOT NULL,
    boot_epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (device, boot_epoch, seq)
);

CREATE TABLE device_models (
    device TEXT NOT NULL,
    manifest TEXT NOT NULL,
    line TEXT NOT NULL,
    inferences BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    bundles BIGINT NOT NULL,
    latency BYTEA NOT NULL,
    PRIMARY KEY (device, manifest)
);

CREATE TABLE sketches (
    hour BIGINT NOT NULL,
    device TEXT NOT NULL,
    manifest TEXT NOT NULL,
    sketch BYTEA NOT NULL,
    PRIMARY KEY (hour, device, manifest)
);
CREATE INDEX sketches_device ON sketches (device, manifest, hour);

CREATE TABLE drift_status (
    device TEXT NOT NULL,
    manifest TEXT NOT NULL,
    line TEXT NOT NULL,
    drifted BIGINT NOT NULL,
    share DOUBLE PRECISION NOT NULL,
    observations BIGINT NOT NULL,
    judgements BIGINT NOT NULL,
    alarms BIGINT NOT NULL,
    nearest_slice TEXT NOT NULL,
    worst TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (device, manifest)
);

CREATE TABLE audit_log (
    idx BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    entry BYTEA NOT NULL,
    hash TEXT NOT NULL
);

CREATE TABLE device_audit (
    device TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    idx BIGINT NOT NULL,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    entry BYTEA NOT NULL,
    PRIMARY KEY (device, epoch, idx)
);

CREATE TABLE device_audit_heads (
    device TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL,
    entries BIGINT NOT NULL,
    hash TEXT NOT NULL,
    envelope BYTEA NOT NULL
);

CREATE TABLE datasets (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    features TEXT,
    harvest_line TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);

CREATE TABLE samples (
    dataset TEXT NOT NULL,
    digest TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    sample_key TEXT NOT NULL,
    slice TEXT NOT NULL,
    split TEXT NOT NULL,
    device TEXT,
    predicted TEXT,
    raw BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (dataset, digest)
);
CREATE UNIQUE INDEX samples_order ON samples (dataset, ordinal);

CREATE TABLE annotations (
    dataset TEXT NOT NULL,
    digest TEXT NOT NULL,
    label TEXT NOT NULL,
    actor TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (dataset, digest)
);

CREATE TABLE guesses (
    dataset TEXT NOT NULL,
    digest TEXT NOT NULL,
    label TEXT NOT NULL,
    confidence DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (dataset, digest)
);

CREATE TABLE labeling_functions (
    id TEXT PRIMARY KEY,
    dataset TEXT NOT NULL,
    name TEXT NOT NULL,
    expression TEXT NOT NULL,
    label TEXT NOT NULL,
    statistics TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (dataset, name)
);

CREATE TABLE label_models (
    dataset TEXT PRIMARY KEY,
    summary TEXT NOT NULL,
    fitted_at BIGINT NOT NULL
);

CREATE TABLE dataset_versions (
    id TEXT PRIMARY KEY,
    dataset TEXT NOT NULL,
    number BIGINT NOT NULL,
    digest TEXT NOT NULL,
    summary TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (dataset, number)
);

CREATE TABLE experiments (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    experiment TEXT NOT NULL,
    dataset_version TEXT NOT NULL,
    trainer TEXT NOT NULL,
    seed TEXT NOT NULL,
    cause TEXT NOT NULL,
    status TEXT NOT NULL,
    job TEXT NOT NULL,
    metrics TEXT NOT NULL,
    model TEXT,
    golden TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX runs_experiment ON runs (experiment, id);

CREATE TABLE run_metrics (
    run TEXT NOT NULL,
    name TEXT NOT NULL,
    step BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run, name, step)
);

CREATE TABLE evaluations (
    run TEXT NOT NULL,
    dataset_version TEXT NOT NULL,
    split TEXT NOT NULL,
    result TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run, dataset_version, split)
);

CREATE TABLE models (
    line TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE model_versions (
    id TEXT PRIMARY KEY,
    line TEXT NOT NULL,
    semver TEXT NOT NULL,
    release_counter BIGINT NOT NULL,
    manifest TEXT NOT NULL UNIQUE,
    payload BYTEA NOT NULL,
    envelope BYTEA,
    signature TEXT NOT NULL,
    run TEXT,
    dataset_version TEXT,
    components TEXT NOT NULL,
    package_bytes BIGINT NOT NULL,
    golden_max_diff DOUBLE PRECISION NOT NULL,
    golden_cases BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (line, semver),
    UNIQUE (line, release_counter)
);

CREATE TABLE rollouts (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    model_version TEXT NOT NULL,
    spec TEXT NOT NULL,
    state TEXT NOT NULL,
    phase BIGINT NOT NULL,
    decision TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX rollouts_state ON rollouts (state, id);

CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    rollout TEXT NOT NULL,
    device TEXT NOT NULL,
    phase BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    bytes_received BIGINT NOT NULL,
    bytes_total BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (rollout, device)
);
CREATE INDEX deployments_device ON deployments (device, created_at);

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL,
    progress DOUBLE PRECISION NOT NULL,
    message TEXT NOT NULL,
    error TEXT,
    epoch BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX jobs_state ON jobs (state, created_at);
