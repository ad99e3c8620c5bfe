-- A record's name has a nonce of its boot: a device whose store was put back counts the same boots again.

CREATE TABLE device_records_named (
    received_at BIGINT NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    boot_epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    nonce BIGINT NOT NULL,
    PRIMARY KEY (device, boot_epoch, seq, nonce)
);
INSERT INTO device_records_named (received_at, device, boot_epoch, seq, nonce)
    SELECT received_at, device, boot_epoch, seq, 0 FROM device_records;
DROP TABLE device_records;
ALTER TABLE device_records_named RENAME TO device_records;
CREATE INDEX device_records_time ON device_records (received_at);
