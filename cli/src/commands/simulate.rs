//! `muster simulate`: a fleet of simulated devices that use the real protocol.

use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use muster_api_types::WriteResult;
use muster_api_types::devices::DeviceSummary;
use muster_api_types::tokens::{CreateEnrollmentToken, TokenCreated};
use muster_client::Client;
use muster_schemas::units::parse_seconds;
use muster_simulate::{CounterSnapshot, Counters, Fleet, FleetOptions, Profile};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::connection::Connection;
use crate::output::{self, facts, note};

/// Timeout for the log to receive the events in flight.
const FINISH_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum number of concurrent deletions.
const MAX_CONCURRENT_DELETIONS: usize = 16;
/// Number of open files needed in addition to one per connection.
const RESERVED_FILES: u64 = 256;

const AFTER_HELP: &str = "Profiles:
  idle    connected, sends nothing
  steady  metrics every 10 s, an event every 10 minutes: the agent's defaults
  busy    metrics every 10 s, an event every 10 s
  churn   metrics every 10 s, an event per minute, offline for up to a minute every 5 minutes
  storm   metrics every 10 s, an event per minute, all connections closed together every minute

The devices have the label simulated=RUN and are deleted at the end; the log keeps their history.
The exit code is 1 when the log does not contain every event that was recorded.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SimulateArgs {
    /// Number of devices
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// Behavior of the devices
    #[arg(long, default_value = "steady")]
    profile: Profile,
    /// Duration: 90s, 10m, 2h; default: until Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds)]
    time: Option<u32>,
    /// Prefix of the devices' names
    #[arg(long, default_value = "sim")]
    prefix: String,
    /// Keep the devices at the end
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(connection: Connection, args: SimulateArgs) -> Result<()> {
    let server = connection.server()?;
    restart_with_ca(&server);
    raise_file_limit(u64::from(args.devices) + RESERVED_FILES)?;
    let client = connection.client()?;
    let run = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect::<String>();
    let request = CreateEnrollmentToken {
        expires_in_seconds: 3600,
        max_uses: args.devices,
        labels: [("simulated".parse()?, run.parse()?)].into(),
        ..CreateEnrollmentToken::new(format!("simulation {run}").parse()?)
    };
    let token = client.post::<TokenCreated>("/api/v1/enrollment-tokens", &request).await?;
    let options = FleetOptions {
        url: client.url().to_owned(),
        ca: server.ca,
        token: token.secret.clone(),
        devices: usize::try_from(args.devices)?,
        prefix: args.prefix.clone(),
        profile: args.profile,
    };
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let twice = async {
        interrupt.recv().await;
        note("ending: waiting for messages in flight; press Ctrl-C again to exit immediately");
        interrupt.recv().await;
    };
    let lived = tokio::select! {
        lived = live(&options, args.time, &connection) => lived,
        () = twice => bail!("exited; the devices with the label simulated={run} were not deleted"),
    };
    let deleted = if args.keep { Ok(()) } else { delete(&client, &run).await };
    lived?;
    deleted
}

/// Restarts the process with the server's CA as the only one: async-nats reads all of the system's
/// CAs for each connection. A process cannot safely change its own environment.
fn restart_with_ca(server: &muster_client::contexts::Context) {
    let Some(ca) = &server.ca else { return };
    if std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file == *ca) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env("SSL_CERT_FILE", ca)
        .env_remove("SSL_CERT_DIR")
        .exec();
    // The simulation works anyway, only slower.
    tracing::debug!(%error, "failed to restart the process");
}

/// Raises the limit of open files: each connection needs one.
fn raise_file_limit(needed: u64) -> Result<()> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("failed to read the file limit")?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        bail!(
            "{needed} open files are needed, and this process may have {hard}; raise the limit \
             (`ulimit -n {needed}` as root), or simulate fewer devices"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard).context("failed to raise the file limit")
}

async fn live(options: &FleetOptions, time: Option<u32>, connection: &Connection) -> Result<()> {
    let counters = Arc::new(Counters::default());
    let started_at = Instant::now();
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));

    let all = options.devices as u64;
    let enrolling = Fleet::enroll(options, &counters);
    let enrolled =
        watch(&bar, enrolling, || format!("{} of {all} joined", counters.snapshot().enrolled));
    let mut stop = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let enrolled = tokio::select! {
        enrolled = enrolled => enrolled?,
        _ = interrupt.recv() => bail!("stopped before all devices had joined"),
    };
    let joined = started_at.elapsed();
    let fleet = Fleet::start(options, enrolled, Arc::clone(&counters))?;
    let online = async {
        while counters.snapshot().online < all {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let is_over = async {
        match time {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    let connecting = Instant::now();
    let mut connected = None;
    let mut rates = Rates::default();
    let say = || format!("{} of {all} online", counters.snapshot().online);
    let lives = async {
        tokio::pin!(is_over);
        tokio::select! {
            () = watch(&bar, online, say) => connected = Some(connecting.elapsed()),
            () = &mut is_over => return,
        }
        watch(&bar, is_over, || rates.line(&counters.snapshot(), started_at.elapsed())).await;
    };
    tokio::select! {
        () = lives => {}
        _ = stop.recv() => {}
        _ = interrupt.recv() => {}
    }
    let lived = started_at.elapsed();
    watch(&bar, fleet.finish(FINISH_TIMEOUT), || {
        let snapshot = counters.snapshot();
        format!("ending: the log has {} of {} events", snapshot.committed, snapshot.events)
    })
    .await;
    bar.finish_and_clear();
    print_report(&counters.snapshot(), joined, connected, lived, connection)
}

/// Shows the progress of a task; a line every ten seconds if there is no terminal.
async fn watch<T>(
    bar: &ProgressBar,
    work: impl Future<Output = T>,
    mut message: impl FnMut() -> String,
) -> T {
    tokio::pin!(work);
    let mut beats = 0_u64;
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let text = message();
                beats += 1;
                if bar.is_hidden() && beats.is_multiple_of(10) {
                    note(&text);
                }
                bar.set_message(text);
            }
        }
    }
}

/// Counters since the previous line.
#[derive(Default)]
struct Rates {
    previous: Option<(Duration, CounterSnapshot)>,
}

impl Rates {
    fn line(&mut self, now: &CounterSnapshot, at: Duration) -> String {
        let (then, before) = self.previous.take().unwrap_or_default();
        let seconds = (at.saturating_sub(then)).as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "the rate is only displayed")]
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let text = format!(
            "{} online · {:.0} events/s · {:.0} points/s · {} events wait for the log · {} errors",
            now.online,
            rate(now.committed, before.committed),
            rate(now.points, before.points),
            now.events - now.committed,
            now.errors.values().sum::<u64>(),
        );
        self.previous = Some((at, now.clone()));
        text
    }
}

fn print_report(
    counters: &CounterSnapshot,
    joined: Duration,
    connected: Option<Duration>,
    lived: Duration,
    connection: &Connection,
) -> Result<()> {
    let lost = counters.events - counters.committed;
    if connection.json {
        output::json(&json!({
            "joined": counters.enrolled, "joined_seconds": joined.as_secs_f64(),
            "online_seconds": connected.map(|time| time.as_secs_f64()),
            "seconds": lived.as_secs_f64(), "connections": counters.connects,
            "events": counters.events, "committed": counters.committed, "resent": counters.resent,
            "batches": counters.batches, "batches_taken": counters.batches_stored,
            "points": counters.points, "differing": counters.differing, "errors": counters.errors,
        }))?;
    } else {
        let online = connected.map_or("never all at the same time".to_owned(), |time| {
            format!("all after {time:.1?}")
        });
        facts(&[
            ("joined", format!("{} in {joined:.1?}", counters.enrolled)),
            ("online", online),
            ("connections", counters.connects.to_string()),
            ("events", format!("{}, of which the log has {}", counters.events, counters.committed)),
            ("resent", counters.resent.to_string()),
            (
                "metrics",
                format!(
                    "{} points in {} batches; {} batches were lost with a connection",
                    counters.points,
                    counters.batches_stored,
                    counters.batches - counters.batches_stored
                ),
            ),
        ]);
        for (error, count) in &counters.errors {
            note(format!("{count} × {error}"));
        }
    }
    if lost > 0 || counters.differing > 0 {
        bail!(
            "the log lacks {lost} of the events, and has {} others in their place",
            counters.differing
        );
    }
    Ok(())
}

/// Deletes the devices of this run.
async fn delete(client: &Client, run: &str) -> Result<()> {
    let query = [("selector", format!("simulated={run}"))];
    let devices = client.list::<DeviceSummary>("/api/v1/devices", &query).await?;
    let bar = ProgressBar::new(devices.len() as u64);
    bar.set_style(ProgressStyle::with_template("deleting {pos} of {len} devices")?);
    let mut deleting = futures::stream::iter(devices)
        .map(|device| async move {
            client.delete::<WriteResult>(&format!("/api/v1/devices/{}", device.id)).await
        })
        .buffer_unordered(MAX_CONCURRENT_DELETIONS);
    while let Some(deleted) = deleting.next().await {
        deleted?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}
