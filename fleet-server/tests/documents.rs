//! What the documentation shows must work: every TOML block in it is read by whoever reads it in earnest. The agent's are
//! tried with the agent, in `tests/tests/bad_input.rs`.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::Path;

use flotilla_api_types::datasets::SplitRule;

const MADE_BY_INIT: &str = "data_dir = 'data'\nhost = 'localhost'\n[listen]\napi = '127.0.0.1:1'\n\
    device_api = '127.0.0.1:2'\nbroker = '127.0.0.1:3'\n";

/// Every ```` ```toml ```` block of a text.
fn blocks(text: &str) -> Vec<String> {
    text.split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_documented_block_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut read = 0;
    for file in docs.chain([root.join("README.md"), root.join("ARCHITECTURE.md")]) {
        if file.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for block in blocks(&std::fs::read_to_string(&file).unwrap()) {
            read += 1;
            if block.contains("hardware_class") {
                continue;
            }
            // Further tables of what `init` wrote.
            if block.contains("[training]") {
                let config = format!("{MADE_BY_INIT}{block}");
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("fleet.toml");
                std::fs::write(&path, &config).unwrap();
                fleet_server::config::Config::load(&path).unwrap();
                continue;
            }
            for line in block.lines() {
                let rule: BTreeMap<String, SplitRule> =
                    toml::from_str(line).unwrap_or_else(|why| panic!("{}: {line}: {why}", file.display()));
                assert!(rule.contains_key("split"), "{}: nobody reads {line}", file.display());
            }
        }
    }
    assert!(read >= 2, "{read} blocks");
}
