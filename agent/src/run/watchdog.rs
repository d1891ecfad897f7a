//! systemd's watchdog, which restarts an agent whose loop is blocked.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// The message to systemd.
const KEEP_ALIVE_MESSAGE: &[u8] = b"WATCHDOG=1";

/// Notifies systemd from the agent's own loop, three times per watchdog interval; does nothing if
/// systemd has not configured a watchdog.
pub(super) async fn feed_watchdog() {
    let Some((socket, allowed)) = watchdog() else { return std::future::pending().await };
    let mut ticks = interval(allowed / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = socket.send(KEEP_ALIVE_MESSAGE) {
            tracing::debug!(%error, "failed to notify systemd's watchdog");
        }
    }
}

fn watchdog() -> Option<(UnixDatagram, Duration)> {
    let is_ours = |pid: String| pid.parse() == Ok(std::process::id());
    if !env::var("WATCHDOG_PID").map_or(true, is_ours) {
        return None;
    }
    let micros: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok().filter(|micros| *micros > 0)?;
    let path = env::var_os("NOTIFY_SOCKET")?;
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let socket = UnixDatagram::unbound().ok()?;
    // A send must never block the main loop.
    socket.set_nonblocking(true).ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some((socket, Duration::from_micros(micros)))
}
