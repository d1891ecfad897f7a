//! Reads from the listeners: datagrams and streams, indefinitely, at a rate that a flood does not
//! increase.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, sleep_until};

use super::parse::Format;
use super::point::{Cause, MAX_LINE_BYTES};
use super::queue::{Counts, PointQueue};
use super::quota::Quota;
use super::sockets::{Listener, ListenerSettings, Listeners};
use crate::clock::Moment;
use crate::metrics::GroupSet;

/// Size of the receive buffer: the maximum size of a datagram plus one byte.
const DATAGRAM_BUFFER_BYTES: usize = 64 * 1024 + 1;
/// Maximum number of open streams; a further one gets a line with the reason, is closed and
/// counted.
pub(super) const MAX_STREAMS: usize = 32;
/// Number of consecutive pieces without an accepted point after which reading pauses.
const MAX_CONSECUTIVE_REFUSALS: u32 = 32;
/// Duration of that pause, in which the kernel drops a flood's datagrams at no cost.
const READ_PAUSE: Duration = Duration::from_millis(10);
/// Interval between checks for dropped points.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum interval between log lines about dropped points, and between attempts to open a failed
/// listener.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Metrics of applications: the listeners, and the points that wait for the next batch.
#[derive(Debug)]
pub(crate) struct LocalMetrics {
    /// The data folder.
    data: PathBuf,
    points: PointQueue,
    listeners: Listeners,
    requested: Mutex<ListenerSettings>,
}

impl LocalMetrics {
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            points: PointQueue::default(),
            listeners: Listeners::default(),
            requested: Mutex::default(),
        }
    }

    pub(crate) const fn points(&self) -> &PointQueue {
        &self.points
    }

    pub(crate) const fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Sets the quota, the agent's own groups, and the listeners that must be open.
    pub(crate) fn configure(
        &self,
        quota: Quota,
        agent_groups: GroupSet,
        listeners: ListenerSettings,
    ) {
        self.points.set(quota, agent_groups);
        *self.requested.lock() = listeners;
    }

    /// Opens and closes listeners as requested. Returns those that could not be opened, by config
    /// variable.
    pub(crate) fn open_listeners(&self) -> BTreeMap<String, String> {
        let requested = *self.requested.lock();
        self.listeners.set(requested, &self.data)
    }

    /// Closes all listeners.
    pub(crate) fn close(&self) {
        self.listeners.close(&self.data);
    }

    /// Processes the data of applications, until it is dropped.
    pub(crate) async fn listen(&self) {
        for (variable, problem) in self.open_listeners() {
            tracing::warn!(variable, problem, "failed to open a metric socket for applications");
        }
        let mut reported = (Counts::default(), Instant::now() - LOG_INTERVAL);
        let mut tried = Instant::now();
        loop {
            let mut readers: FuturesUnordered<BoxFuture<'_, ()>> = self
                .listeners
                .open()
                .into_iter()
                .map(|listener| serve(&self.points, listener))
                .collect();
            loop {
                tokio::select! {
                    // Readers never end.
                    Some(()) = readers.next() => {}
                    () = self.listeners.changed() => break,
                    () = sleep(CHECK_INTERVAL) => {
                        log_dropped(&self.points, &mut reported);
                        if tried.elapsed() >= LOG_INTERVAL {
                            tried = Instant::now();
                            self.open_listeners();
                        }
                    }
                }
            }
        }
    }
}

/// Logs the points that were dropped since the last log line.
fn log_dropped(intake: &PointQueue, logged: &mut (Counts, Instant)) {
    let counts = intake.counts();
    if counts.dropped == logged.0.dropped || logged.1.elapsed() < LOG_INTERVAL {
        return;
    }
    let since: Vec<String> = Cause::ALL
        .into_iter()
        .map(|cause| (cause, counts.dropped_for(cause) - logged.0.dropped_for(cause)))
        .filter(|(_, count)| *count > 0)
        .map(|(cause, count)| format!("{} {count}", cause.as_str()))
        .collect();
    tracing::warn!(dropped = since.join(", "), "dropped metrics of applications");
    *logged = (counts, Instant::now());
}

fn serve(intake: &PointQueue, listener: Arc<Listener>) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        match &*listener {
            Listener::Udp(socket, format) => {
                datagrams(intake, *format, |bytes| socket.try_recv(bytes), || socket.readable())
                    .await;
            }
            Listener::Datagrams(socket) => {
                datagrams(
                    intake,
                    Format::Lines,
                    |bytes| socket.try_recv(bytes),
                    || socket.readable(),
                )
                .await;
            }
            Listener::Stream(listener) => streams(intake, listener).await,
        }
    })
}

/// Slows down reading while no data can be accepted.
#[derive(Default)]
struct ReadPacer(u32);

impl ReadPacer {
    async fn after(&mut self, was_read: bool) {
        self.0 = if was_read { 0 } else { self.0 + 1 };
        if self.0 >= MAX_CONSECUTIVE_REFUSALS {
            self.0 = 0;
            sleep(READ_PAUSE).await;
        }
    }
}

async fn datagrams<F: Future<Output = std::io::Result<()>>>(
    intake: &PointQueue,
    format: Format,
    receive: impl Fn(&mut [u8]) -> std::io::Result<usize>,
    readable: impl Fn() -> F,
) {
    let mut bytes = vec![0; DATAGRAM_BUFFER_BYTES];
    let mut pace = ReadPacer::default();
    loop {
        if readable().await.is_err() {
            sleep(CHECK_INTERVAL).await;
            continue;
        }
        let length = match receive(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => {
                pace.after(false).await;
                continue;
            }
        };
        let was_read = if length == DATAGRAM_BUFFER_BYTES {
            intake.count_dropped(Cause::TooLong);
            false
        } else {
            intake.accept(format, bytes.get(..length).unwrap_or_default(), &Moment::now())
        };
        pace.after(was_read).await;
    }
}

async fn streams(intake: &PointQueue, listener: &UnixListener) {
    let mut open: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    let mut accept_at = Instant::now();
    loop {
        tokio::select! {
            Some(()) = open.next(), if !open.is_empty() => {}
            accepted = async {
                sleep_until(accept_at).await;
                listener.accept().await
            } => match accepted {
                Ok((stream, _)) if open.len() < MAX_STREAMS => open.push(Box::pin(lines(intake, stream))),
                Ok((stream, _)) => {
                    intake.count_dropped(Cause::Streams);
                    // A client that reads its stream to the end gets the reason.
                    let text = format!("muster-agent: at most {MAX_STREAMS} streams may be open\n");
                    let _ = stream.try_write(text.as_bytes());
                }
                // For example, out of file descriptors.
                Err(_) => accept_at = Instant::now() + CHECK_INTERVAL,
            }
        }
    }
}

/// Reads a stream's lines until it ends.
async fn lines(intake: &PointQueue, mut stream: UnixStream) {
    let mut held = Vec::new();
    let mut is_skipping = false;
    let mut pace = ReadPacer::default();
    loop {
        held.reserve(2 * MAX_LINE_BYTES);
        let length = match stream.read_buf(&mut held).await {
            Ok(length) if length > 0 => length,
            _ => break,
        };
        let is_new = held.len() - length;
        let end =
            held.iter().skip(is_new).rposition(|byte| *byte == b'\n').map(|at| is_new + at + 1);
        let mut was_read = false;
        if let Some(end) = end {
            let mut whole: Vec<u8> = held.drain(..end).collect();
            if std::mem::take(&mut is_skipping) {
                let from = whole.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                whole.drain(..from);
            }
            was_read = intake.accept(Format::Lines, &whole, &Moment::now());
        }
        if held.len() > MAX_LINE_BYTES {
            held.clear();
            if !std::mem::replace(&mut is_skipping, true) {
                intake.count_dropped(Cause::TooLong);
            }
        } else if is_skipping && end.is_none() {
            held.clear();
        }
        pace.after(was_read).await;
    }
    if !is_skipping && !held.is_empty() {
        intake.accept(Format::Lines, &held, &Moment::now());
    }
}
