-- The loop's tables. Times are Unix milliseconds; ids are UUIDs or names; digests are 'sha256:<hex>'; JSON stands in TEXT.
-- The SQLite file differs in the type of byte strings, and orders text by its bytes without being told: here every column of text
-- says COLLATE "C", whatever the database's own order is.

CREATE TABLE fleet (
    name TEXT COLLATE "C" NOT NULL
);

CREATE TABLE documents (
    kind TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    envelope BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (kind, version)
);

CREATE TABLE projects (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL UNIQUE,
    roles TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE idempotency_keys (
    actor TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    request TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    body BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (actor, idempotency_key)
);

CREATE TABLE claim_tokens (
    id TEXT COLLATE "C" PRIMARY KEY,
    hash TEXT COLLATE "C" NOT NULL UNIQUE,
    uses BIGINT NOT NULL,
    used BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    tags TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE devices (
    id TEXT COLLATE "C" PRIMARY KEY,
    status TEXT COLLATE "C" NOT NULL,
    thumbprint TEXT COLLATE "C" NOT NULL UNIQUE,
    signing_key BYTEA NOT NULL,
    wrapping_key BYTEA NOT NULL,
    certificate_digest TEXT COLLATE "C" NOT NULL,
    claim_token TEXT COLLATE "C" NOT NULL,
    tags TEXT COLLATE "C" NOT NULL,
    hardware_class TEXT COLLATE "C" NOT NULL,
    arch TEXT COLLATE "C" NOT NULL,
    agent_version TEXT COLLATE "C" NOT NULL,
    ram_bytes BIGINT NOT NULL,
    disk_free_bytes BIGINT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    connected BIGINT NOT NULL,
    last_seen BIGINT,
    boot_count BIGINT NOT NULL,
    report_counter BIGINT NOT NULL,
    report BYTEA,
    error TEXT COLLATE "C",
    attack TEXT COLLATE "C",
    desired_version BIGINT NOT NULL,
    desired BYTEA,
    -- When the stored desired state lapses, Unix milliseconds; 0 before the first one.
    desired_expires BIGINT NOT NULL,
    desired_stale BIGINT NOT NULL
);
CREATE INDEX devices_stale ON devices (desired_stale, id);

CREATE TABLE device_slots (
    device TEXT COLLATE "C" NOT NULL,
    slot TEXT COLLATE "C" NOT NULL,
    line TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    semver TEXT COLLATE "C" NOT NULL,
    release_counter BIGINT NOT NULL,
    committed BIGINT NOT NULL,
    PRIMARY KEY (device, slot)
);

CREATE TABLE targets (
    device TEXT COLLATE "C" NOT NULL,
    slot TEXT COLLATE "C" NOT NULL,
    deployment TEXT COLLATE "C" NOT NULL,
    model_version TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (device, slot)
);

-- What was counted, so that nothing is counted twice. Time first: appended in time order.
CREATE TABLE device_records (
    received_at BIGINT NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    boot_epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (device, boot_epoch, seq)
);

CREATE TABLE device_models (
    device TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    line TEXT COLLATE "C" NOT NULL,
    inferences BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    bundles BIGINT NOT NULL,
    latency BYTEA NOT NULL,
    PRIMARY KEY (device, manifest)
);

CREATE TABLE sketches (
    hour BIGINT NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    sketch BYTEA NOT NULL,
    PRIMARY KEY (hour, device, manifest)
);
CREATE INDEX sketches_device ON sketches (device, manifest, hour);

CREATE TABLE drift_status (
    device TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    line TEXT COLLATE "C" NOT NULL,
    drifted BIGINT NOT NULL,
    share DOUBLE PRECISION NOT NULL,
    observations BIGINT NOT NULL,
    judgements BIGINT NOT NULL,
    alarms BIGINT NOT NULL,
    nearest_slice TEXT COLLATE "C" NOT NULL,
    worst TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (device, manifest)
);

CREATE TABLE audit_log (
    idx BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    entry BYTEA NOT NULL,
    hash TEXT COLLATE "C" NOT NULL
);

CREATE TABLE device_audit (
    device TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    idx BIGINT NOT NULL,
    at BIGINT NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    entry BYTEA NOT NULL,
    PRIMARY KEY (device, epoch, idx)
);

CREATE TABLE device_audit_heads (
    device TEXT COLLATE "C" PRIMARY KEY,
    epoch BIGINT NOT NULL,
    entries BIGINT NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    envelope BYTEA NOT NULL
);

CREATE TABLE datasets (
    id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    spec TEXT COLLATE "C" NOT NULL,
    features TEXT COLLATE "C",
    harvest_line TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);

CREATE TABLE samples (
    dataset TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    ordinal BIGINT NOT NULL,
    sample_key TEXT COLLATE "C" NOT NULL,
    slice TEXT COLLATE "C" NOT NULL,
    split TEXT COLLATE "C" NOT NULL,
    device TEXT COLLATE "C",
    predicted TEXT COLLATE "C",
    raw BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (dataset, digest)
);
CREATE UNIQUE INDEX samples_order ON samples (dataset, ordinal);

CREATE TABLE annotations (
    dataset TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    label TEXT COLLATE "C" NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (dataset, digest)
);

CREATE TABLE guesses (
    dataset TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    label TEXT COLLATE "C" NOT NULL,
    confidence DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (dataset, digest)
);

CREATE TABLE labeling_functions (
    id TEXT COLLATE "C" PRIMARY KEY,
    dataset TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    expression TEXT COLLATE "C" NOT NULL,
    label TEXT COLLATE "C" NOT NULL,
    statistics TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    UNIQUE (dataset, name)
);

CREATE TABLE label_models (
    dataset TEXT COLLATE "C" PRIMARY KEY,
    summary TEXT COLLATE "C" NOT NULL,
    fitted_at BIGINT NOT NULL
);

CREATE TABLE dataset_versions (
    id TEXT COLLATE "C" PRIMARY KEY,
    dataset TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    summary TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (dataset, number)
);

CREATE TABLE experiments (
    id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, name)
);

CREATE TABLE runs (
    id TEXT COLLATE "C" PRIMARY KEY,
    experiment TEXT COLLATE "C" NOT NULL,
    dataset_version TEXT COLLATE "C" NOT NULL,
    trainer TEXT COLLATE "C" NOT NULL,
    seed TEXT COLLATE "C" NOT NULL,
    cause TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    job TEXT COLLATE "C" NOT NULL,
    metrics TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C",
    golden TEXT COLLATE "C",
    error TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX runs_experiment ON runs (experiment, id);

CREATE TABLE run_metrics (
    run TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    step BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run, name, step)
);

CREATE TABLE evaluations (
    run TEXT COLLATE "C" NOT NULL,
    dataset_version TEXT COLLATE "C" NOT NULL,
    split TEXT COLLATE "C" NOT NULL,
    result TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run, dataset_version, split)
);

CREATE TABLE models (
    line TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE model_versions (
    id TEXT COLLATE "C" PRIMARY KEY,
    line TEXT COLLATE "C" NOT NULL,
    semver TEXT COLLATE "C" NOT NULL,
    release_counter BIGINT NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL UNIQUE,
    payload BYTEA NOT NULL,
    envelope BYTEA,
    signature TEXT COLLATE "C" NOT NULL,
    run TEXT COLLATE "C",
    dataset_version TEXT COLLATE "C",
    components TEXT COLLATE "C" NOT NULL,
    package_bytes BIGINT NOT NULL,
    golden_max_diff DOUBLE PRECISION NOT NULL,
    golden_cases BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (line, semver),
    UNIQUE (line, release_counter)
);

CREATE TABLE rollouts (
    id TEXT COLLATE "C" PRIMARY KEY,
    project_id TEXT COLLATE "C" NOT NULL,
    model_version TEXT COLLATE "C" NOT NULL,
    spec TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    phase BIGINT NOT NULL,
    decision TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX rollouts_state ON rollouts (state, id);

CREATE TABLE deployments (
    id TEXT COLLATE "C" PRIMARY KEY,
    rollout TEXT COLLATE "C" NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    phase BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C",
    bytes_received BIGINT NOT NULL,
    bytes_total BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (rollout, device)
);
CREATE INDEX deployments_device ON deployments (device, created_at);

CREATE TABLE jobs (
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    payload TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    progress DOUBLE PRECISION NOT NULL,
    message TEXT COLLATE "C" NOT NULL,
    error TEXT COLLATE "C",
    epoch BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX jobs_state ON jobs (state, created_at);
