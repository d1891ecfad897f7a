//! Starts the three servers in a folder, prints their addresses as one line of JSON, and stops them
//! when its standard input ends: for development, and for this crate's own tests.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use muster_backing::influx::{InfluxDb, InfluxOptions};
use muster_backing::nats::{NatsOptions, NatsServer};
use muster_backing::postgres::{Postgres, PostgresOptions, Tuning};
use serde_json::json;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        let _ = writeln!(io::stderr(), "usage: muster-backing DIR");
        return ExitCode::from(2);
    };
    match run(dir).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut line = format!("error: {error}");
            let mut cause = error.source();
            while let Some(source) = cause {
                line.push_str(&format!(": {source}"));
                cause = source.source();
            }
            let _ = writeln!(io::stderr(), "{line}");
            ExitCode::FAILURE
        }
    }
}

async fn run(dir: PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    let postgres =
        PostgresOptions { tuning: Tuning::Small, ..PostgresOptions::new(dir.join("postgres")) };
    let postgres = Postgres::start(postgres).await?;
    let nats = NatsServer::start(NatsOptions::new(dir.join("nats"))).await?;
    let influx = InfluxDb::start(InfluxOptions::new(dir.join("influx"))).await?;
    let places = json!({
        "postgres": { "url": postgres.connection_url(), "pid": postgres.child().pid() },
        "nats": { "url": nats.url(), "pid": nats.child().pid() },
        "influx": { "url": influx.url(), "pid": influx.child().pid() },
    });
    writeln!(io::stdout(), "{places}")?;
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    nats.stop().await?;
    influx.stop().await?;
    postgres.stop().await?;
    Ok(())
}
