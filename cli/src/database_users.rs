//! The database users of the roles: made with the URL of the database's owner, each with a password
//! of its own from the folder of keys.

use anyhow::{Context, Result};
use muster_command::keys::KeyStore;
use muster_eventlog::{DatabaseRole, EventLog, NewDatabaseUser, UsersMade};
use muster_schemas::ProjectId;
use reqwest::Url;

/// Where a role's URL stands in the folder of keys.
pub(crate) const fn url_file(role: DatabaseRole) -> &'static str {
    match role {
        DatabaseRole::Ingest => "roles/ingest/postgres-url",
        DatabaseRole::Query => "roles/query/postgres-url",
        DatabaseRole::Command => "postgres-url-command",
        DatabaseRole::Server => "postgres-url-server",
    }
}

/// The URL by which a role reaches the database that its owner reaches by `owner`.
pub(crate) fn url_of(owner: &str, role: DatabaseRole, keys: &KeyStore) -> Result<String> {
    let mut url = Url::parse(owner).context("the URL of PostgreSQL")?;
    let password = keys.database_password(role.user())?;
    if url.set_username(role.user()).is_err() || url.set_password(Some(&password)).is_err() {
        anyhow::bail!("the URL of PostgreSQL names no host");
    }
    Ok(url.to_string())
}

/// Makes all tables, then the database users, and writes their URLs. Answers false when the owner
/// may not make users: then nothing is written.
pub(crate) async fn make(log: &EventLog, owner: &str, keys: &KeyStore) -> Result<bool> {
    for project in [ProjectId::default_project(), ProjectId::system()] {
        log.ensure_project(&project).await?;
    }
    muster_command::make_tables(log).await?;
    muster_query::make_tables(log).await?;
    let passwords = DatabaseRole::ALL.map(|role| keys.database_password(role.user()));
    let mut users = Vec::new();
    for (role, password) in DatabaseRole::ALL.into_iter().zip(&passwords) {
        let password = match password {
            Ok(password) => password,
            Err(error) => anyhow::bail!("{}", muster_api::problem::describe(error)),
        };
        let projections: &[&str] = match role {
            DatabaseRole::Command => &muster_command::PROJECTIONS,
            DatabaseRole::Query => &muster_query::PROJECTIONS,
            DatabaseRole::Ingest | DatabaseRole::Server => &[],
        };
        users.push(NewDatabaseUser { role, password, projections });
    }
    if log.make_database_users(&users).await? == UsersMade::Forbidden {
        return Ok(false);
    }
    for role in DatabaseRole::ALL {
        // `muster up` has no folders of other roles.
        let path = keys.dir().join(url_file(role));
        if path.parent().is_some_and(|dir| !dir.is_dir()) {
            continue;
        }
        keys.write_database_url(url_file(role), &url_of(owner, role, keys)?)?;
    }
    Ok(true)
}
