//! Database users of the roles: created with the database owner's URL, each with its own password
//! from the key folder.

use anyhow::{Context, Result};
use muster_command::keys::KeyStore;
use muster_eventlog::{CreateUsersOutcome, DatabaseRole, EventLog, NewDatabaseUser};
use muster_schemas::ProjectId;
use muster_schemas::errors::error_chain;
use reqwest::Url;

/// Returns the name of the file with a role's URL in the key folder.
#[must_use]
pub const fn url_file(role: DatabaseRole) -> &'static str {
    match role {
        DatabaseRole::Ingest => "roles/ingest/postgres-url",
        DatabaseRole::Query => "roles/query/postgres-url",
        DatabaseRole::Command => "postgres-url-command",
        DatabaseRole::Server => "postgres-url-server",
    }
}

/// Returns a role's URL for the database whose owner uses the URL `owner`.
pub(crate) fn url_of(owner: &str, role: DatabaseRole, keys: &KeyStore) -> Result<String> {
    with_user(owner, role.user(), &keys.database_password(role.user())?)
}

/// Replaces the user of the URL. A URL without a host, as for a Unix socket, has the user among its
/// parameters, because an empty host cannot have one.
fn with_user(owner: &str, user: &str, password: &str) -> Result<String> {
    let mut url = Url::parse(owner).context("the URL of PostgreSQL")?;
    let parameters: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !matches!(name.as_ref(), "user" | "password"))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    url.set_query(None);
    if !parameters.is_empty() {
        url.query_pairs_mut().extend_pairs(parameters);
    }
    if has_host {
        if url.set_username(user).is_err() || url.set_password(Some(password)).is_err() {
            anyhow::bail!("failed to set the user in the URL of PostgreSQL");
        }
    } else {
        url.query_pairs_mut().append_pair("user", user).append_pair("password", password);
    }
    Ok(url.to_string())
}

/// Creates all tables and the database users, and writes their URLs. Returns false when the owner
/// may not create users: then no URL is written.
pub(crate) async fn create(log: &EventLog, owner: &str, keys: &KeyStore) -> Result<bool> {
    for project in [ProjectId::default_project(), ProjectId::system()] {
        log.ensure_project(&project).await?;
    }
    muster_command::create_tables(log).await?;
    muster_query::create_tables(log).await?;
    let live: Vec<&str> =
        muster_command::PROJECTIONS.into_iter().chain(muster_query::PROJECTIONS).collect();
    for projection in log.drop_superseded_projections(&live).await? {
        tracing::info!(projection, "the tables of a superseded projection were dropped");
    }
    let passwords = DatabaseRole::ALL.map(|role| keys.database_password(role.user()));
    let mut users = Vec::new();
    for (role, password) in DatabaseRole::ALL.into_iter().zip(&passwords) {
        let password = match password {
            Ok(password) => password,
            Err(error) => anyhow::bail!("{}", error_chain(error)),
        };
        let projections: &[&str] = match role {
            DatabaseRole::Command => &muster_command::PROJECTIONS,
            DatabaseRole::Query => &muster_query::PROJECTIONS,
            DatabaseRole::Ingest | DatabaseRole::Server => &[],
        };
        users.push(NewDatabaseUser { role, password, projections });
    }
    if log.create_database_users(&users).await? == CreateUsersOutcome::Forbidden {
        return Ok(false);
    }
    for role in DatabaseRole::ALL {
        // `muster up` has no key folders of other roles.
        let path = keys.dir().join(url_file(role));
        if path.parent().is_some_and(|dir| !dir.is_dir()) {
            continue;
        }
        keys.write_database_url(url_file(role), &url_of(owner, role, keys)?)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_s_url_differs_from_the_owner_s_only_in_the_user() {
        for (owner, role) in [
            ("postgres://o:x@h:1/d?sslmode=require", "postgres://u:p%2F@h:1/d?sslmode=require"),
            ("postgres://h/d?user=o&password=x", "postgres://u:p%2F@h/d"),
            ("postgres://%2Frun%2Fpg/d", "postgres://u:p%2F@%2Frun%2Fpg/d"),
            (
                "postgresql:///d?host=/run/postgresql&user=o",
                "postgresql:///d?host=%2Frun%2Fpostgresql&user=u&password=p%2F",
            ),
        ] {
            assert_eq!(with_user(owner, "u", "p/").unwrap(), role, "{owner}");
        }
        assert!(with_user("no url", "u", "p").is_err());
    }
}
