//! Logging: text on a terminal, JSON lines otherwise. The level can be changed at run time.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use muster_agent::log_level::{LevelError, SetLevel};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, filter::Targets, fmt, reload};

/// Default filter: warnings of other crates, but nothing from async-nats and the SFTP server, whose
/// errors the agent logs itself.
fn filter(level: &str) -> String {
    format!("warn,async_nats=off,russh_sftp=off,muster_agent={level}")
}

/// Starts logging; returns what sets the level of the config variable `log.level`. A filter from the
/// command line takes precedence over the variable.
pub(super) fn start(given: Option<&str>, is_daemon: bool) -> anyhow::Result<SetLevel> {
    let default = filter(if is_daemon { "info" } else { "warn" });
    let text = given.unwrap_or(&default);
    let targets = text
        .parse::<Targets>()
        .with_context(|| format!("'{text}' is not a log filter; use info, debug or crate=level"))?;
    let (layer, handle) = reload::Layer::<Targets, Registry>::new(targets);
    let output = if std::io::stderr().is_terminal() {
        fmt::layer().with_writer(std::io::stderr).with_target(false).boxed()
    } else {
        fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
    };
    tracing_subscriber::registry().with(layer).with(output).init();
    let is_given = given.is_some();
    Ok(Arc::new(move |level| {
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            return Err(LevelError::Unknown(level.to_owned()));
        }
        if is_given {
            return Ok(());
        }
        Ok(handle.reload(filter(level).parse::<Targets>()?)?)
    }))
}
