//! Migrations are one text for two databases: the files differ in the type of byte strings, and in that PostgreSQL is told to
//! order text by its bytes, as SQLite does by itself. What a planner is told is each database's own affair (`*_statistics.sql`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn files(database: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

/// Without what people read: each file may say in its own way which of the two it is.
fn statements(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect()
}

#[test]
fn sqlite_and_postgres_differ_in_byte_strings_and_collation_alone() {
    let (sqlite, postgres) = (files("sqlite"), files("postgres"));
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&sqlite), names(&postgres), "every migration is there for both");
    assert!(sqlite.len() >= 2, "{:?}", names(&sqlite));
    for (name, text) in &sqlite {
        assert!(!text.contains("BYTEA"), "sqlite/{name}");
        if name.ends_with("_statistics.sql") {
            continue;
        }
        let other = &postgres[name];
        assert!(!other.contains("BLOB"), "postgres/{name}");
        // Every column: pages end at a text and go on above it, and prefixes are ranges, in the order of bytes.
        let expected = text.replace("BLOB", "BYTEA").replace(" TEXT", " TEXT COLLATE \"C\"");
        assert_eq!(statements(&expected), statements(other), "{name}");
    }
}
