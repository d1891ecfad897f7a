//! Reports of the helper to the agent that it is still working.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use super::messages::Reply;
use crate::subprocess::{HELPER_TIMEOUT, Port};

/// Minimum interval between progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout for storing a whole archive on disk, in seconds.
const SYNC_SECONDS: u32 = 900;

/// Reports that the helper is still working.
pub(super) struct Progress<'a> {
    state: RefCell<State<'a>>,
}

struct State<'a> {
    port: &'a mut Port,
    path: String,
    sent_at: Instant,
}

impl<'a> Progress<'a> {
    pub(super) fn new(port: &'a mut Port, path: &str) -> Self {
        let path = path.to_owned();
        Self { state: RefCell::new(State { port, path, sent_at: Instant::now() }) }
    }

    fn send(&self, path: &str, seconds: u32) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.sent_at = Instant::now();
        path.clone_into(&mut state.path);
        state.port.send(&Reply::Progress { path: path.to_owned(), seconds })
    }

    /// Reports that a path will be accessed next.
    pub(super) fn report_path(&self, path: &str) -> io::Result<()> {
        let seconds = u32::try_from(HELPER_TIMEOUT.as_secs()).unwrap_or(u32::MAX);
        self.send(path, seconds)
    }

    /// Reports progress at the path that was reported last.
    pub(super) fn report_progress(&self) -> io::Result<()> {
        let state = self.state.borrow();
        if state.sent_at.elapsed() < PROGRESS_INTERVAL {
            return Ok(());
        }
        let path = state.path.clone();
        drop(state);
        self.report_path(&path)
    }

    /// Reports that a whole archive will be synced to the agent's own disk.
    pub(super) fn report_syncing(&self, path: &str) -> io::Result<()> {
        self.send(path, SYNC_SECONDS)
    }
}
