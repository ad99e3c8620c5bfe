//! Other people's code reads our signed documents: `pycose` verifies the committed envelopes and `cbor2` reads them as
//! their expected readings say. The environment is made by `make oracles` (and so by `make test`); nothing is mocked and
//! nothing is skipped where it is missing.

#![cfg(test)]

use std::path::Path;
use std::process::Command;

#[test]
fn pycose_verifies_every_committed_envelope() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = tests.join("../.venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make oracles` once",
        python.display()
    );
    let run = |folder: &Path| {
        Command::new(&python)
            .arg(tests.join("oracles/verify_envelope.py"))
            .arg(folder)
            .output()
            .unwrap()
    };
    let good = run(&tests.join("../protocol/test-data/v1"));
    let said = String::from_utf8_lossy(&good.stdout);
    assert!(good.status.success(), "{said}{}", String::from_utf8_lossy(&good.stderr));
    for name in [
        "root",
        "manifest",
        "desired-state",
        "head",
        "device-report",
        "audit-head",
        "enrolment",
    ] {
        assert!(
            said.contains(&format!("verified {name}: ")),
            "{name} is not verified:\n{said}"
        );
    }

    // The oracle can say no: one bit of one signature.
    let damaged = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tests.join("../protocol/test-data/v1")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.ends_with("head.cbor") {
            *bytes.last_mut().unwrap() ^= 1;
        }
        std::fs::write(damaged.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    let bad = run(damaged.path());
    assert!(!bad.status.success(), "{}", String::from_utf8_lossy(&bad.stdout));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("refused head"));
}
