//! Database users of the roles, each with only the rights that its role needs
//! (docs/decisions/0021). The owner of the database creates them; roles do not use this module.

use async_recursion::async_recursion as boxed;
use tokio_postgres::error::SqlState;

use crate::error::{ErrorContext, StoreError};
use crate::log::EventLog;

/// A role, as a database user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseRole {
    /// Appends to the log.
    Ingest,
    /// Appends to the log; writes its own tables.
    Command,
    /// Reads the log; writes read models.
    Query,
    /// All three, for `muster up`, which is one process.
    Server,
}

/// Rights of a role on the tables of the log: privileges and tables.
type Grants = &'static [(&'static str, &'static str)];

/// Rights that every append needs.
const APPEND: Grants = &[
    ("INSERT", "events"),
    ("INSERT, UPDATE", "heads, streams, device_keys, offsets, leases"),
    ("INSERT, UPDATE, DELETE", "appends, dead_letters"),
];
/// For `/metrics`, which requires a token.
const INGEST: Grants = &[("INSERT, UPDATE", "token_uses")];
const COMMAND: Grants = &[
    // Only command enrolls, revokes and deletes devices.
    ("INSERT, UPDATE, DELETE", "bridges, token_uses, nats_revocations, device_marks"),
    ("INSERT, UPDATE", "account_claims, checkpoints"),
    ("SELECT, INSERT, UPDATE, DELETE", "open_shells"),
];
const QUERY: Grants = &[
    ("INSERT, UPDATE", "checkpoints, token_uses"),
    ("SELECT, INSERT, DELETE, UPDATE", "list_walks"),
];
/// Tables that every role may read.
const READ: &str = "events, heads, streams, appends, device_keys, device_marks, offsets, leases, \
     dead_letters, checkpoints, projection_states, nats_revocations, account_claims, bridges, token_uses, \
     _sqlx_migrations";

impl DatabaseRole {
    /// All roles; the last one is a member of the others.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Command, Self::Query, Self::Server];

    /// Returns the name of its database user.
    #[must_use]
    pub const fn user(self) -> &'static str {
        match self {
            Self::Ingest => "muster_ingest",
            Self::Command => "muster_command",
            Self::Query => "muster_query",
            Self::Server => "muster_server",
        }
    }

    const fn grants(self) -> &'static [Grants] {
        match self {
            Self::Ingest => &[APPEND, INGEST],
            Self::Command => &[APPEND, COMMAND],
            Self::Query => &[QUERY],
            Self::Server => &[],
        }
    }
}

/// A database user to create.
#[derive(Clone, Copy)]
pub struct NewDatabaseUser<'a> {
    /// Role of the user.
    pub role: DatabaseRole,
    /// Password of the user.
    pub password: &'a str,
    /// Projections whose tables it writes.
    pub projections: &'a [&'a str],
}

impl std::fmt::Debug for NewDatabaseUser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewDatabaseUser({})", self.role.user())
    }
}

/// Result of the creation of database users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateUsersOutcome {
    /// The users exist, with these passwords and exactly these rights.
    Created,
    /// The connected user may not create users.
    Forbidden,
}

impl EventLog {
    /// Creates the database users, or sets their passwords and exactly these rights.
    ///
    /// # Errors
    /// When PostgreSQL is unreachable or fails for another reason than missing rights.
    #[boxed]
    pub async fn create_database_users(
        &self,
        users: &[NewDatabaseUser<'_>],
    ) -> Result<CreateUsersOutcome, StoreError> {
        let mut script = "BEGIN; SET LOCAL lock_timeout = '10s';
             SELECT pg_advisory_xact_lock(hashtextextended('muster-database-users', 0));
             REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             REVOKE EXECUTE ON FUNCTION muster_ensure_project(text),
                 muster_ensure_range(text, bigint, bigint) FROM PUBLIC;
             DO $do$ BEGIN
                 EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
             END $do$;"
            .to_owned();
        for user in users {
            script.push_str(&create_user_sql(user));
        }
        for user in users.iter().filter(|user| user.role == DatabaseRole::Server) {
            let server = user.role.user();
            script.push_str(&format!(
                "GRANT muster_ingest, muster_command, muster_query TO {server};"
            ));
        }
        script.push_str("COMMIT;");
        // A separate connection, because an error leaves a transaction open.
        let client = self.stores().dialer.dial().await?;
        match client.batch_execute(&script).await {
            Ok(()) => Ok(CreateUsersOutcome::Created),
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                Ok(CreateUsersOutcome::Forbidden)
            }
            Err(error) => Err(error).while_trying("create the database users of the roles"),
        }
    }
}

/// Returns the statements that create one user.
fn create_user_sql(user: &NewDatabaseUser<'_>) -> String {
    let name = user.role.user();
    let password = user.password.replace('\'', "''");
    let mut script = format!(
        "DO $do$ BEGIN
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN
                 CREATE ROLE {name};
             END IF;
         END $do$;
         ALTER ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT PASSWORD '{password}';
         ALTER ROLE {name} RESET ALL;
         DO $do$ BEGIN
             EXECUTE format('ALTER ROLE {name} IN DATABASE %I RESET ALL', current_database());
         END $do$;
         REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name};
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM {name};
         REVOKE ALL ON SCHEMA public FROM {name};
         GRANT USAGE ON SCHEMA public TO {name};"
    );
    if user.role == DatabaseRole::Server {
        return script;
    }
    script.push_str(&format!("GRANT SELECT ON {READ} TO {name};"));
    for (privileges, tables) in user.role.grants().iter().copied().flatten() {
        script.push_str(&format!("GRANT {privileges} ON {tables} TO {name};"));
    }
    if user.role != DatabaseRole::Query {
        script.push_str(&format!(
            "GRANT EXECUTE ON FUNCTION muster_ensure_project(text),
                 muster_ensure_range(text, bigint, bigint) TO {name};"
        ));
    }
    for projection in user.projections {
        // The names of its tables start with its name.
        script.push_str(&format!(
            "DO $do$ DECLARE found regclass; BEGIN
                 FOR found IN SELECT oid::regclass FROM pg_class
                     WHERE relkind = 'r' AND pg_table_is_visible(oid)
                       AND (relname = '{projection}' OR starts_with(relname, '{projection}_'))
                 LOOP
                     EXECUTE format(
                         'GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO {name}', found);
                 END LOOP;
             END $do$;"
        ));
    }
    script
}
