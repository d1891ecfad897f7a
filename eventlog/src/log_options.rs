//! Options of a log.

/// Options of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Number of positions in one partition.
    pub partition_rows: u64,
    /// Maximum number of events in one transaction.
    pub max_batch: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { partition_rows: 5_000_000, max_batch: 2_000 }
    }
}
