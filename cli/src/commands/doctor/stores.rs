//! Checks of PostgreSQL and its content, and of InfluxDB.

use std::path::Path;
use std::time::{Duration, SystemTime};

use muster_command::dispatch::queue_projection::NAME as DISPATCH_LIST;
use muster_command::keys::verifier_in;
use muster_eventlog::{
    AuthorityAudit, ConnectOptions, Examination, ReadModel, audit_authority, examine,
};
use muster_metric_store::{InfluxClient, StoreSettings, WriteResponse};
use muster_query::PROJECTIONS;
use muster_schemas::errors::error_chain;
use muster_schemas::{Position, Timestamp};
use tokio::time::timeout;

use super::check::Check;

const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
const AUTHORITY_CHECK: &str = "authority";
/// Name of the check of the migrations.
pub(super) const TABLES_CHECK: &str = "tables";
/// Maximum clock skew; a larger one makes nonces and tokens expire early or late.
const MAX_SKEW: Duration = Duration::from_secs(5);
/// Maximum lag of a read model, in events; a peak of load alone does not cause a larger one.
const MAX_LAG_EVENTS: u64 = 5_000;
/// Maximum age of the oldest unread event; then the read model is stuck.
const MAX_LAG: Duration = Duration::from_secs(15);

/// Checks that this server's command role recorded every event that grants authority.
pub(super) async fn authority(url: &str, keys: &Path) -> Check {
    let name = AUTHORITY_CHECK;
    let verifier = match verifier_in(keys) {
        Ok(Some(verifier)) => verifier,
        Ok(None) => {
            let found = format!("{} contains no authority.key or authority.pub", keys.display());
            return Check::bad(name, found, "run `muster bootstrap` with the folder of all keys");
        }
        Err(error) => {
            let remedy = "restore the file from a backup";
            return Check::bad(name, error_chain(&error), remedy);
        }
    };
    let connect = ConnectOptions { connections: 1, ..ConnectOptions::new(url) };
    match timeout(2 * CHECK_TIMEOUT, audit_authority(&connect, &verifier, CHECK_TIMEOUT)).await {
        Ok(Ok(audit)) => audit_check(&audit),
        Ok(Err(error)) => {
            let remedy = "the failures above prevent reading the log";
            Check::bad(name, error_chain(&error), remedy)
        }
        Err(_) => Check::bad(name, "the log cannot be read in 20 s", "is PostgreSQL overloaded?"),
    }
}

/// Returns the check for the result of an audit.
pub(super) fn audit_check(audit: &AuthorityAudit) -> Check {
    let part =
        if audit.is_complete { "" } else { " so far; the log is too long to verify all in 10 s" };
    let verified = format!("{} events verified{part}", audit.verified);
    if audit.refused == 0 {
        return Check::good(AUTHORITY_CHECK, verified);
    }
    let example = |(project, position, kind): &(String, Position, String)| {
        format!("{kind} at position {position} of {project}")
    };
    let examples: Vec<String> = audit.examples.iter().map(example).collect();
    let found = format!(
        "{verified}, {} were not written by this server's command role and are ignored: {}",
        audit.refused,
        examples.join(", ")
    );
    let remedy = "was the database modified manually, is a command role of an older release still \
         running, or was an old backup restored? See docs/security.md";
    Check::bad(AUTHORITY_CHECK, found, remedy)
}

/// Runs all checks of PostgreSQL.
pub(super) async fn postgres(url: &str) -> Vec<Check> {
    let connect = ConnectOptions { connections: 1, ..ConnectOptions::new(url) };
    let found = match timeout(CHECK_TIMEOUT, examine(&connect)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return vec![unreachable(&error_chain(&error))],
        Err(_) => return vec![unreachable("it does not respond within 10 s")],
    };
    examination_checks(&found, Timestamp::from(SystemTime::now()))
}

fn unreachable(problem: &str) -> Check {
    let remedy = "check that it is started, that its port is reachable from here, and that user \
         and password are right; meanwhile devices keep their events";
    Check::bad("PostgreSQL", problem, remedy)
}

/// Returns the checks for the result of an examination.
pub(super) fn examination_checks(found: &Examination, now: Timestamp) -> Vec<Check> {
    let (used, allowed) = found.connections;
    let text = format!("version {}, {used} of {allowed} connections", found.version);
    let mut checks = vec![if used * 10 > allowed * 9 {
        let remedy = "raise max_connections: each role takes up to 40, or run fewer copies";
        Check::bad("PostgreSQL", text, remedy)
    } else {
        Check::good("PostgreSQL", text)
    }];
    checks.push(match &found.excess_privileges {
        Some(user) => Check::bad(
            "database user",
            format!("{user} has more rights than a role needs: it is a superuser, or owns the log"),
            "run `muster bootstrap`, and start each role with the URL from its folder of keys: postgres-url, postgres-url-command",
        ),
        None => Check::good("database user", "has the rights of its role"),
    });
    let skew = now.micros_since(found.now);
    #[expect(clippy::cast_precision_loss, reason = "seconds for a person")]
    let text = format!("{:.1} s off PostgreSQL's", skew as f64 / 1e6);
    checks.push(if Duration::from_micros(skew.unsigned_abs()) > MAX_SKEW {
        let remedy = "set the clocks of both machines (timedatectl set-ntp true)";
        Check::bad("clock", text, remedy)
    } else {
        Check::good("clock", text)
    });
    if found.missing > 0 {
        let text = format!("{} migrations are not in the database yet", found.missing);
        checks.push(Check::bad(
            TABLES_CHECK,
            text,
            "start a role of this release: it migrates at its start",
        ));
        return checks;
    }
    checks.push(Check::good(TABLES_CHECK, "up to date with this release"));
    checks.extend(read_models(found));
    let dead_letters = found.dead_letters;
    checks.push(if dead_letters > 0 {
        let text = format!("{dead_letters} within the last day");
        let remedy =
            "see `muster dead-letter list` for senders and causes, and docs/operations.md for what \
             to do";
        Check::bad("dead letters", text, remedy)
    } else {
        Check::good("dead letters", "none within the last day")
    });
    checks
}

fn read_models(found: &Examination) -> Vec<Check> {
    let name = "read models";
    let mut checks = Vec::new();
    let is_live = |model: &&ReadModel| {
        PROJECTIONS.contains(&model.name.as_str()) || model.name == DISPATCH_LIST
    };
    for ReadModel { name: model, project, lag, behind_since, failure } in
        found.read_models.iter().filter(is_live)
    {
        let age = behind_since.map_or(Duration::ZERO, |since| found.now.since(since));
        if let Some(failure) = failure {
            let text = format!("{model} of {project} stopped: {failure}");
            let remedy = "a newer release fixes it; nothing is skipped or lost meanwhile";
            checks.push(Check::bad(name, text, remedy));
        } else if let Some(since) = behind_since
            && age > MAX_LAG
        {
            let text = format!(
                "{model} of {project} is {lag} events behind and has not applied the events since \
                 {since}"
            );
            let remedy = "is the database's disk full, do roles query and command run? See their \
                 logs; responses are stale, but nothing is lost";
            checks.push(Check::bad(name, text, remedy));
        } else if *lag > MAX_LAG_EVENTS {
            let text = format!("{model} of {project} is {lag} events behind");
            let remedy = "does a role query run? See its log, and PostgreSQL's load";
            checks.push(Check::bad(name, text, remedy));
        }
    }
    if checks.is_empty() {
        checks.push(Check::good(name, "keep up with the log"));
    }
    checks
}

/// Checks that the metric store is reachable and accepts metrics. Nothing is written.
pub(super) async fn influx(store: &StoreSettings) -> Check {
    let name = "InfluxDB";
    let url = &store.url;
    let remedy = "check that it is started, and that its port is reachable from here; meanwhile \
         metrics wait in the broker and on devices";
    let settings = StoreSettings { timeout: CHECK_TIMEOUT, gzip: false, ..store.clone() };
    let client = match InfluxClient::new(settings) {
        Ok(client) => client,
        Err(error) => return Check::bad(name, error.to_string(), "correct --influx-url"),
    };
    let version = match client.version().await {
        Ok(version) => version.text,
        Err(error) => return Check::bad(name, format!("{url}: {}", error.reason()), remedy),
    };
    match client.write(client.pack(b"\n".to_vec())).await {
        // The request was authorized; the store refused only its empty body.
        WriteResponse::Written | WriteResponse::Refused(_) | WriteResponse::TooLarge(_) => {
            Check::good(
                name,
                format!("version {version} accepts metrics into '{}'", store.database),
            )
        }
        WriteResponse::DatabaseMissing(_) => Check::good(
            name,
            format!("version {version}; '{}' is created with the first metrics", store.database),
        ),
        WriteResponse::Misconfigured(reason) => {
            let remedy =
                "correct user and password (1.x), or organization, bucket and token (2.x, 3.x)";
            Check::bad(name, format!("version {version} rejects the credentials: {reason}"), remedy)
        }
        WriteResponse::Busy { message: reason, .. } | WriteResponse::Unavailable(reason) => {
            Check::bad(name, format!("version {version}: {reason}"), remedy)
        }
    }
}
