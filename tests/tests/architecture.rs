//! The borders of the architecture, held by a test: who may depend on whom, which files do no I/O, where signatures are
//! verified, where topics are spelled. It reads `cargo metadata` and the sources; it compiles nothing.

#![expect(clippy::string_slice, reason = "positions come from searches in the same text")]
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each one may name. Tests may name all.
const EDGES: [(&str, &[&str]); 8] = [
    ("flotilla-protocol", &[]),
    ("flotilla-engine", &["flotilla-protocol"]),
    ("fleet-agent", &["flotilla-engine", "flotilla-protocol"]),
    ("flotilla-api-types", &["flotilla-protocol"]),
    (
        "fleet-server",
        &[
            "flotilla-api-types",
            "flotilla-console",
            "flotilla-engine",
            "flotilla-expressions",
            "flotilla-protocol",
        ],
    ),
    ("flotilla-console", &[]),
    ("flotilla-expressions", &[]),
    ("fleetctl", &["flotilla-api-types", "flotilla-protocol"]),
];

/// What a crate may not even reach through others. A name stands for the crate itself and for `name-…`.
const ABSENT: [(&str, &[&str]); 5] = [
    (
        "flotilla-protocol",
        &[
            "tokio", "redb", "sqlx", "axum", "hyper", "reqwest", "rumqttc", "rmqtt", "tract", "burn", "mio", "rustls",
        ],
    ),
    (
        "flotilla-engine",
        &[
            "tokio", "redb", "sqlx", "axum", "hyper", "reqwest", "rumqttc", "rmqtt", "burn", "rustls",
        ],
    ),
    (
        "fleet-agent",
        &[
            "fleet-server",
            "flotilla-api-types",
            "sqlx",
            "rmqtt",
            "burn",
            "cel",
            "utoipa",
        ],
    ),
    (
        "flotilla-api-types",
        &["tokio", "sqlx", "axum", "rmqtt", "tract", "burn"],
    ),
    (
        "fleetctl",
        &["fleet-server", "rmqtt", "rumqttc", "tract", "burn", "sqlx", "redb"],
    ),
];

/// Files and folders without I/O: time, bytes and randomness are arguments there.
const PURE: [&str; 13] = [
    "protocol/src",
    "agent/src/ota/machine.rs",
    "agent/src/ota/machine/transitions.rs",
    "agent/src/ota/state.rs",
    "agent/src/ota/policy.rs",
    "agent/src/spool.rs",
    "fleet-server/src/domain",
    "fleet-server/src/training/fit.rs",
    "fleet-server/src/training/fit",
    "fleet-server/src/training/evaluate.rs",
    "fleet-server/src/training/export.rs",
    "fleet-server/src/training/golden.rs",
    "fleet-server/src/packaging/package.rs",
];

const IO: [&str; 13] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "sqlx",
    "reqwest",
    "redb",
    "rumqttc",
    "object_store",
];

/// The server's ranks, highest first: a module names none that stands above it, and of its own rank none but itself and
/// those that [`BESIDE`] lists.
const RANKS: [&[&str]; 10] = [
    &["serve"],
    &["api", "broker", "device_api", "listener", "reconcile"],
    &["director", "init", "refusals"],
    &["jobs"],
    &["packaging"],
    &["training"],
    &["work"],
    &["app", "events"],
    &["store", "blobs", "ca", "heavy", "imports"],
    &["domain"],
];

/// Who may name whom in one rank: the API reaches the running broker, both APIs and their listeners answer errors alike, and
/// what the server's parts share includes the events that are made of it.
const BESIDE: [(&str, &str); 6] = [
    ("api", "broker"),
    ("device_api", "api"),
    ("device_api", "listener"),
    ("listener", "api"),
    ("app", "events"),
    ("events", "app"),
];

/// Small things that every rank may name.
const EVERYBODYS: [&str; 5] = ["audit", "clock", "config", "files", "tasks"];

/// Compiled for tests alone.
const FOR_TESTS: &str = "testing";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every file below `folder` with one of the extensions, without what is built, installed or recorded.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    const NOT_OURS: [&str; 7] = [
        "target",
        "node_modules",
        ".git",
        ".venv",
        "demo-run",
        "test-data",
        "corpus",
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !NOT_OURS.contains(&name.as_str()) {
                found.extend(files(&path, extensions));
            }
        } else if extensions.iter().any(|extension| name.ends_with(extension)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The code of a file: no comments, no unit tests (which stand at its end).
fn code(path: &Path) -> String {
    let text = read(path);
    let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    shipped
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split(" // ").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Does the code name `word` as a word of its own?
fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// For each package of the graph, by id: its name and what it links (no development dependencies).
struct Graph {
    packages: BTreeMap<String, String>,
    links: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read() -> Self {
        let metadata = metadata();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
        let shipped = |dep: &&Value| {
            let kinds = dep["dep_kinds"].as_array().unwrap();
            kinds.iter().any(|kind| kind["kind"].is_null())
        };
        let links = |node: &Value| -> Vec<String> {
            let deps = node["deps"].as_array().unwrap();
            deps.iter().filter(shipped).map(|dep| text(&dep["pkg"])).collect()
        };
        Self {
            packages: packages.iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect(),
            links: nodes.iter().map(|node| (text(&node["id"]), links(node))).collect(),
        }
    }

    fn id(&self, name: &str) -> &str {
        let found = self.packages.iter().find(|(_, other)| *other == name);
        found.unwrap_or_else(|| panic!("the workspace has no crate '{name}'")).0
    }

    fn direct(&self, name: &str) -> BTreeSet<&str> {
        self.links[self.id(name)]
            .iter()
            .map(|id| self.packages[id].as_str())
            .collect()
    }

    /// Everything a crate links, by name, each with the crate that brings it in.
    fn reached(&self, name: &str) -> BTreeMap<&str, &str> {
        let mut seen = BTreeMap::new();
        let mut open = vec![self.id(name)];
        while let Some(id) = open.pop() {
            for next in &self.links[id] {
                let by = self.packages[id].as_str();
                if seen.insert(self.packages[next].as_str(), by).is_none() {
                    open.push(next);
                }
            }
        }
        seen
    }
}

#[test]
fn arrows_between_crates_run_one_way() {
    let graph = Graph::read();
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in EDGES {
        for found in graph.direct(name).intersection(&ours) {
            assert!(allowed.contains(found), "{name} may not depend on {found}");
        }
    }
}

#[test]
fn heavy_crates_stay_where_they_belong() {
    let graph = Graph::read();
    for (name, absent) in ABSENT {
        for (found, by) in graph.reached(name) {
            let refused = absent
                .iter()
                .any(|word| found == *word || found.strip_prefix(word).is_some_and(|rest| rest.starts_with('-')));
            assert!(!refused, "{name} links {found} (by {by})");
        }
    }
}

#[test]
fn pure_files_name_no_io() {
    for place in PURE {
        let path = root().join(place);
        let found = if path.is_dir() {
            files(&path, &[".rs"])
        } else {
            vec![path]
        };
        assert!(!found.is_empty(), "{place} is gone: say here where it went");
        // Unit tests that stand in a file of their own are no part of what is shipped.
        for file in found.into_iter().filter(|file| !file.ends_with("tests.rs")) {
            let code = code(&file);
            for word in IO {
                assert!(!names(&code, word), "{} is pure and names {word}", shown(&file));
            }
        }
    }
}

#[test]
fn the_servers_arrows_run_down_its_ranks() {
    for (rank, modules) in RANKS.iter().enumerate() {
        for module in *modules {
            let above = RANKS[..rank].iter().copied().flatten();
            let beside = modules
                .iter()
                .filter(|other| *other != module && !BESIDE.contains(&(*module, **other)));
            let refused: Vec<&str> = above.chain(beside).copied().collect();
            let found = module_files(module);
            assert!(!found.is_empty(), "{module} is gone: say here where it went");
            for file in found {
                let code = code(&file);
                for other in &refused {
                    assert!(!names_module(&code, other), "{} names crate::{other}", shown(&file));
                }
            }
        }
    }
}

#[test]
fn every_module_of_the_server_has_a_rank() {
    let lib = read(&root().join("fleet-server/src/lib.rs"));
    let declared: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    let ranked = RANKS.iter().copied().flatten().copied();
    let known: BTreeSet<&str> = ranked.chain(EVERYBODYS).chain([FOR_TESTS]).collect();
    assert_eq!(declared, known, "say in RANKS where a module stands");
}

#[test]
fn nothing_names_what_wires_everything() {
    let server = root().join("fleet-server/src");
    let wires = ["serve.rs", "main.rs", "lib.rs"].map(|name| server.join(name));
    for file in files(&server, &[".rs"]) {
        if !wires.contains(&file) && !file.starts_with(server.join("serve")) {
            assert!(
                !names_module(&code(&file), "serve"),
                "{} names crate::serve",
                shown(&file)
            );
        }
    }
}

/// A module of the server: its file and its folder, without tests that stand in files of their own.
fn module_files(module: &str) -> Vec<PathBuf> {
    let server = root().join("fleet-server/src");
    let mut found = vec![server.join(format!("{module}.rs"))];
    let folder = server.join(module);
    if folder.is_dir() {
        found.extend(files(&folder, &[".rs"]));
    }
    found.retain(|file| file.exists() && !file.ends_with("tests.rs") && !file.ends_with("testing.rs"));
    found
}

/// Does the code name a module of its crate, as `crate::module…` or within `crate::{…}`?
fn names_module(code: &str, module: &str) -> bool {
    if names(code, &format!("crate::{module}")) {
        return true;
    }
    code.match_indices("crate::{").any(|(at, opening)| {
        let list = &code[at + opening.len()..];
        let mut depth = 0usize;
        let mut outermost = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                c if depth == 0 => outermost.push(c),
                _ => {}
            }
        }
        outermost
            .split(',')
            .filter_map(|item| item.trim().split([':', ' ']).next())
            .any(|name| name == module)
    })
}

#[test]
fn modules_in_a_list_of_imports_are_seen() {
    assert!(names_module("use crate::{audit, jobs};", "jobs"));
    assert!(names_module(
        "use crate::{\n    audit,\n    jobs::{self, run},\n};",
        "jobs"
    ));
    assert!(names_module("crate::jobs::run()", "jobs"));
    assert!(!names_module("use crate::store::{audit, jobs};", "jobs"));
    assert!(!names_module("use crate::{store::{self, jobs}, audit};", "jobs"));
    assert!(!names_module("use crate::jobs_of;", "jobs"));
}

#[test]
fn signatures_are_verified_in_one_place() {
    let sources = files(&root(), &[".rs"]);
    for call in [
        concat!(".verify", "_strict("),
        concat!(".verify_detached", "_signature("),
    ] {
        let places: Vec<String> = sources
            .iter()
            .flat_map(|file| vec![shown(file); code(file).matches(call).count()])
            .collect();
        assert_eq!(places, ["protocol/src/trust/envelope.rs"], "{call}");
    }
    let makers: Vec<String> = sources
        .iter()
        .filter(|file| code(file).contains(concat!("Verified", "::new(")))
        .map(|file| shown(file))
        .collect();
    assert_eq!(
        makers,
        ["protocol/src/trust/envelope.rs"],
        "who makes a verified document"
    );
}

#[test]
fn topics_are_spelled_in_one_file() {
    // A path of a local REST resource begins with a slash, a topic does not.
    let literal = concat!("flotilla", "/v1");
    let topic = |code: &str| code.match_indices(literal).any(|(at, _)| !code[..at].ends_with('/'));
    for file in files(&root(), &[".rs"]) {
        let name = shown(&file);
        if name != "protocol/src/topics.rs" && !name.contains("/tests/") && !name.ends_with("/tests.rs") {
            assert!(
                !topic(&code(&file)),
                "{name} spells a topic: use flotilla_protocol::topics"
            );
        }
    }
}

#[test]
fn every_source_opens_by_saying_what_it_is_for() {
    for file in files(&root(), &[".rs"]) {
        let text = read(&file);
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//! ") && first.len() > 20,
            "{} opens with '{first}'",
            shown(&file)
        );
    }
}

#[test]
fn no_machine_is_named() {
    let kinds = [
        ".rs", ".toml", ".md", ".py", ".sh", ".sql", ".ts", ".tsx", ".yml", ".yaml", ".json", "Makefile",
    ];
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home/", "user")];
    for file in files(&root(), &kinds) {
        let text = read(&file);
        for path in paths {
            let found = text.match_indices(path).find(|(at, _)| {
                !text[..*at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '}' | '{'))
            });
            assert!(found.is_none(), "{} names the machine path {path}", shown(&file));
        }
    }
}
