-- The devices that an order on many of them means: those that matched when it was given, whatever matches later.

CREATE TABLE job_devices (
    job TEXT COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    device TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (job, device)
);
