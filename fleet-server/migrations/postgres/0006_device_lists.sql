-- What lists of devices show and filter by, one slim row per device, kept up by whoever changes what it is made from. Devices
-- that have none yet get theirs when the server starts.

CREATE TABLE device_summaries (
    device TEXT COLLATE "C" PRIMARY KEY,
    -- online, offline, decommissioned
    status TEXT COLLATE "C" NOT NULL,
    -- 0 alert, 1 updating, 2 online, 3 offline, 4 decommissioned: how lists order it.
    urgency BIGINT NOT NULL,
    updating BIGINT NOT NULL,
    -- Any of the four that follow.
    alert BIGINT NOT NULL,
    drifted BIGINT NOT NULL,
    attacked BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    faulty BIGINT NOT NULL,
    -- Largest share of drifted features; -1 before the first judgement.
    drift DOUBLE PRECISION NOT NULL,
    inferences BIGINT NOT NULL,
    hardware_class TEXT COLLATE "C" NOT NULL,
    arch TEXT COLLATE "C" NOT NULL,
    agent_version TEXT COLLATE "C" NOT NULL,
    -- Line and version of the first slot.
    model TEXT COLLATE "C" NOT NULL,
    -- Every slot, as the API tells it.
    models TEXT COLLATE "C" NOT NULL,
    tags TEXT COLLATE "C" NOT NULL,
    thumbprint TEXT COLLATE "C" NOT NULL,
    enrolled_at BIGINT NOT NULL,
    -- 0: never.
    last_seen BIGINT NOT NULL,
    -- Id, tags and hardware class in lower case.
    search TEXT COLLATE "C" NOT NULL
);
CREATE INDEX device_summaries_counts ON device_summaries (status, updating, alert);
-- One for each order; what most filters ask stands in them too, so that skipping to a row far down reads nothing else.
CREATE INDEX device_summaries_id ON device_summaries (device, status, updating, alert);
CREATE INDEX device_summaries_urgency ON device_summaries (urgency, device, status, updating, alert);
CREATE INDEX device_summaries_drift ON device_summaries (drift, device, status, updating, alert);
CREATE INDEX device_summaries_inferences ON device_summaries (inferences, device, status, updating, alert);
CREATE INDEX device_summaries_class ON device_summaries (hardware_class, device, status, updating, alert);
CREATE INDEX device_summaries_agent ON device_summaries (agent_version, device, status, updating, alert);
CREATE INDEX device_summaries_model ON device_summaries (model, device, status, updating, alert);
CREATE INDEX device_summaries_enrolled ON device_summaries (enrolled_at, device, status, updating, alert);
CREATE INDEX device_summaries_seen ON device_summaries (last_seen, device, status, updating, alert);
CREATE INDEX device_summaries_alert ON device_summaries (device) WHERE alert = 1;
CREATE INDEX device_summaries_updating ON device_summaries (device) WHERE updating = 1;
-- Everything that filters look at: matches are found and counted without reading the rows, which are four times as wide.
CREATE INDEX device_summaries_filter ON device_summaries
    (status, updating, alert, device, drift, hardware_class, arch, agent_version, search);

CREATE TABLE device_tags (
    tag_key TEXT COLLATE "C" NOT NULL,
    tag_value TEXT COLLATE "C" NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tag_key, tag_value, device)
);
CREATE INDEX device_tags_device ON device_tags (device);

CREATE INDEX device_slots_line ON device_slots (line, semver, device);
CREATE INDEX device_slots_semver ON device_slots (semver, device);
CREATE INDEX deployments_rollout_state ON deployments (rollout, state);
CREATE INDEX deployments_state ON deployments (state, updated_at);

-- What a device did that stands in no other table: it came, it went, its judgement of drift turned.
CREATE TABLE device_events (
    device TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (device, at, event)
);
CREATE INDEX device_events_at ON device_events (at);

-- What the server's log says of one device, found by the device.
CREATE TABLE device_log (
    device TEXT COLLATE "C" NOT NULL,
    idx BIGINT NOT NULL,
    PRIMARY KEY (device, idx)
);

CREATE TABLE telemetry_hours (
    hour BIGINT NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    line TEXT COLLATE "C" NOT NULL,
    inferences BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    latency BYTEA NOT NULL,
    PRIMARY KEY (device, hour, manifest)
);
CREATE INDEX telemetry_hours_hour ON telemetry_hours (hour);

-- The whole fleet's hours.
CREATE TABLE fleet_hours (
    hour BIGINT PRIMARY KEY,
    inferences BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);

CREATE INDEX device_audit_at ON device_audit (device, at);
CREATE INDEX audit_log_event ON audit_log (event, idx);
CREATE INDEX drift_status_drifted ON drift_status (at) WHERE drifted = 1;
