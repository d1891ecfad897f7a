//! The migrations of the database. They are listed here instead of by sqlx's macro, whose crate would
//! be built with its own PostgreSQL client and TLS for the machine that builds.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr};

use crate::error::StoreError;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../migrations/", $name, ".sql")))),*]
    };
}

/// Name and content of each migration.
const FILES: &[(&str, &str)] = files![
    "0001_log",
    "0002_revocations",
    "0003_marks",
    "0004_grafana",
    "0005_bridges",
    "0011_authority",
    "0012_keys_by_fingerprint",
    "0013_database_roles",
    "0014_request_hash",
    "0021_list_walks",
    "0022_open_shells",
    "0023_key_rotations",
    "0024_projection_states",
];

/// Splits a name into the version and the description, as sqlx does.
fn parse_name(name: &str) -> (i64, String) {
    let (version, description) = name.split_once('_').unwrap_or((name, ""));
    (version.parse().unwrap_or_default(), description.replace('_', " "))
}

fn migrations() -> Vec<Migration> {
    let migration = |(name, sql): &(&str, &'static str)| {
        let (version, description) = parse_name(name);
        let sql = AssertSqlSafe(*sql).into_sql_str();
        Migration::new(version, Cow::Owned(description), MigrationType::Simple, sql, false)
    };
    FILES.iter().map(migration).collect()
}

/// Returns the number of migrations that are not among the applied ones.
pub(crate) fn count_missing(applied: &[i64]) -> usize {
    FILES.iter().filter(|(name, _)| !applied.contains(&parse_name(name).0)).count()
}

/// Runs missing migrations. A database user without that right only checks that there are none.
pub(crate) async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    let lookup_failed = |source| StoreError::Sqlx { attempted: "look up migrations", source };
    let may_migrate: bool =
        sqlx::query_scalar("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            .fetch_one(pool)
            .await
            .map_err(lookup_failed)?;
    if may_migrate {
        let mut migrator = Migrator::with_migrations(migrations());
        // A newer release may have added migrations; this one is compatible with them.
        migrator.set_ignore_missing(true);
        return Ok(migrator.run(pool).await?);
    }
    let applied: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(pool)
            .await
            .map_err(lookup_failed)?;
    match count_missing(&applied) {
        0 => Ok(()),
        missing => Err(StoreError::NotMigrated(missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_is_listed_once_and_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort_unstable();
        let listed: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, files);
        assert_eq!(parse_name("0004_grafana_views"), (4, "grafana views".to_owned()));
        assert_eq!((count_missing(&[]), count_missing(&[1, 2])), (FILES.len(), FILES.len() - 2));
    }

    /// A database of an earlier release has the checksums of sqlx's macro.
    #[test]
    fn checksums_are_those_of_the_files() {
        let first = &migrations()[0];
        let checksum: String = first.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "abae5ec23683e57861bd95cab6a5c121178a20ad5d962794a4e0dc3cbb375f06\
             a8790cabace3f1ba759d6872be902266";
        assert_eq!(checksum, expected);
    }
}
