//! Logging: text on a terminal, JSON lines otherwise. The level can be changed at run time.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use muster_agent::log_level::{LevelError, SetLevel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Default filter: warnings of other crates, but nothing from async-nats and the SFTP server, whose
/// errors the agent logs itself.
fn filter(level: &str) -> String {
    format!("warn,async_nats=off,russh_sftp=off,muster_agent={level}")
}

/// Parses a filter. The library would accept filters of spans and fields, which have no effect, read
/// an empty part as `error`, and a misspelled level as a target.
fn parse(text: &str) -> anyhow::Result<Targets> {
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_unsupported =
        |part: &str| part.contains(['[', '{']) || !(part.contains('=') || is_level(part));
    if let Some(part) = text.split(',').map(str::trim).find(|part| is_unsupported(part)) {
        anyhow::bail!("'{part}' is neither a level nor target=level");
    }
    Ok(text.parse()?)
}

/// Starts logging; returns what sets the level of the config variable `log.level`. A filter from the
/// command line takes precedence over the variable.
pub(super) fn start(given: Option<&str>, is_daemon: bool) -> anyhow::Result<SetLevel> {
    let default = filter(if is_daemon { "info" } else { "warn" });
    let text = given.unwrap_or(&default);
    let targets = parse(text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_without_an_effect_are_refused() {
        for good in ["info", "muster_agent=debug,async_nats=info", &filter("warn")] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "info,", "[span]=debug", "a[{field}]=info", "loud"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
