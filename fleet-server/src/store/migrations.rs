//! The schema's versions, built into the server. `sqlx::migrate!` would do the same, but has SQLite, the PostgreSQL client and all
//! of sqlx compiled a second time, for the compiler itself.

use std::borrow::Cow;
use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! migrations {
    ($($name:literal),+ $(,)?) => {
        pub(super) static SQLITE: LazyLock<Migrator> = LazyLock::new(|| {
            migrator(&[$(($name, include_str!(concat!("../../migrations/sqlite/", $name, ".sql")))),+])
        });

        /// For the test that prepares every statement there too.
        pub static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
            migrator(&[$(($name, include_str!(concat!("../../migrations/postgres/", $name, ".sql")))),+])
        });
    };
}

migrations![
    "0001_loop",
    "0002_imports",
    "0003_sessions",
    "0004_idempotency",
    "0005_rollouts",
    "0006_device_lists",
    "0007_rollout_targets",
    "0008_narrowed_lists",
    "0010_record_nonces",
    "0011_guess_generations",
    "0012_job_devices",
    "0013_rollout_orders",
    "0014_list_statistics",
    "0015_sample_counts",
    "0016_filtered_lists",
    "0017_lineage",
];

/// Files' names and their text.
fn migrator(files: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = files.iter().map(|(name, sql)| {
        let (version, description) = name.split_once('_').unwrap_or((name, ""));
        // A test holds the names to this form.
        let version = version.parse().unwrap_or(i64::MAX);
        let description = Cow::Owned(description.replace('_', " "));
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_built_in_under_its_number() {
        for (folder, migrator) in [("sqlite", &SQLITE), ("postgres", &POSTGRES)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let mut files: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let built_in: Vec<_> = migrator
                .iter()
                .map(|one| format!("{:04}_{}.sql", one.version, one.description.replace(' ', "_")))
                .collect();
            assert_eq!(built_in, files);
        }
    }
}
