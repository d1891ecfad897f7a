//! `muster doctor`: checks all dependencies of a server. It changes nothing; each check that fails
//! suggests a fix, and then the exit code is 1.

mod broker;
mod check;
mod files;
mod stores;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use muster_eventlog::DatabaseRole;
use muster_metric_store::StoreSettings;
use muster_server::database_users::url_file;
use muster_server::metric_store::InfluxArgs;
use muster_server::serve::Listen;

use self::check::Check;
use super::health;
use crate::connection::Connection;
use crate::exit::PartialFailure;
use crate::output::{self, line};

/// Check a server: the data folder of `muster up`, or the options of `muster serve`
///
/// In a container of docker-compose.yml, the environment already contains all options.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Data folder of `muster up`; not with --postgres-url
    #[arg(long, env = "MUSTER_DATA", default_value = "muster-data")]
    data: PathBuf,
    /// PostgreSQL: postgres://user@host:port/database; with a password, use the variable
    #[arg(long, env = "MUSTER_POSTGRES_URL", hide_env_values = true, requires = "keys")]
    postgres_url: Option<String>,
    /// NATS server: tls://host:port; for a cluster, a list separated by commas
    #[arg(long, env = "MUSTER_NATS_URL", value_delimiter = ',')]
    nats_url: Vec<String>,
    /// InfluxDB: http://host:port
    #[arg(long, env = "MUSTER_INFLUX_URL")]
    influx_url: Option<String>,
    #[command(flatten)]
    influx: InfluxArgs,
    /// Key folder
    #[arg(long, env = "MUSTER_KEYS")]
    keys: Option<PathBuf>,
    /// Address of the role on this machine
    #[arg(long, env = "MUSTER_LISTEN", value_name = "ADDRESS[:PORT]")]
    listen: Option<Listen>,
}

/// The server to check.
struct Subject {
    postgres_url: String,
    nats_urls: Vec<String>,
    store: Option<StoreSettings>,
    keys: PathBuf,
    /// Folder for data on this machine.
    data: Option<PathBuf>,
    /// Host and port of the API on this machine.
    api: Option<String>,
}

impl DoctorArgs {
    fn subject(self) -> Result<Subject> {
        let (Some(postgres_url), Some(keys)) = (self.postgres_url, self.keys) else {
            let (owner, store) = muster_server::up::servers_in(&self.data)?;
            // The URL that the roles use; it is missing in a folder of an older release.
            let file = self.data.join("keys").join(url_file(DatabaseRole::Server));
            let kept = std::fs::read_to_string(file).ok().map(|url| url.trim().to_owned());
            let postgres_url = kept.unwrap_or(owner);
            let ports = muster_server::up::ports_in(&self.data);
            return Ok(Subject {
                postgres_url,
                nats_urls: ports
                    .as_ref()
                    .map(|(nats, _)| format!("tls://127.0.0.1:{nats}"))
                    .into_iter()
                    .collect(),
                store: Some(store),
                keys: self.data.join("keys"),
                api: ports.and_then(|(_, api)| api),
                data: Some(self.data),
            });
        };
        Ok(Subject {
            postgres_url,
            nats_urls: self.nats_url,
            store: self.influx_url.map(|url| self.influx.settings(&url)),
            keys,
            data: None,
            api: self.listen.map(|listen| {
                health::reachable_address(listen.with_port(muster_server::serve::DEFAULT_PORT))
            }),
        })
    }
}

/// Runs all checks and prints their results.
pub(crate) async fn run(connection: &Connection, args: DoctorArgs) -> Result<()> {
    let subject = args.subject()?;
    let mut checks = files::keys(&subject.keys);
    checks.extend(files::certificates(&subject.keys));
    checks.push(files::disk(subject.data.as_deref().unwrap_or(&subject.keys)));
    let postgres = stores::postgres(&subject.postgres_url).await;
    // An unreadable file is reported only once.
    let is_readable =
        postgres.iter().any(|check| check.name == stores::TABLES_CHECK && check.remedy.is_none());
    checks.extend(postgres);
    if is_readable {
        checks.push(stores::authority(&subject.postgres_url, &subject.keys).await);
    }
    for url in &subject.nats_urls {
        checks.extend(broker::examine(url, &subject.keys).await);
    }
    if let Some(store) = &subject.store {
        checks.push(stores::influx(store).await);
    }
    if let Some(address) = &subject.api {
        checks.push(api(address, &subject).await);
    }
    let failed = checks.iter().filter(|check| check.remedy.is_some()).count();
    if connection.json {
        output::json(&serde_json::to_value(&checks)?)?;
    } else {
        for check in &checks {
            let verdict = if check.remedy.is_none() { "ok  " } else { "FAIL" };
            line(format!("{verdict} {:<12} {}", check.name, check.found));
            if let Some(remedy) = &check.remedy {
                line(format!("     {:<12} → {remedy}", ""));
            }
        }
    }
    if failed > 0 {
        return Err(PartialFailure { failed, total: checks.len(), code: 1 }.into());
    }
    Ok(())
}

/// Checks whether the role on this machine is ready.
async fn api(address: &str, subject: &Subject) -> Check {
    match health::query_readiness(address, &subject.keys).await {
        Ok(None) => Check::good("API", format!("https://{address} is ready")),
        Ok(Some(degraded)) => Check::bad(
            "API",
            format!("https://{address} serves reads; {degraded}"),
            "free space on the disk of the database, or see the logs of the roles",
        ),
        Err(error) => Check::bad(
            "API",
            format!("{error:#}"),
            "check that the role runs, and see its log; the failures above keep it from becoming \
             ready",
        ),
    }
}
