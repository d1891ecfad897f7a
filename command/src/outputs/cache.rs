//! What this process knows of the stored outputs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use muster_blobs::key::Piece;
use muster_schemas::wire::OutputStream;
use muster_schemas::{DeviceId, OperationId, ProjectId};
use parking_lot::Mutex;

use super::id::OutputId;

/// Maximum number of outputs in the cache; beyond it, the cache is cleared.
const MAX_CACHED_OUTPUTS: usize = 20_000;
/// Lifetime of a file's cached state: another process may have erased the file.
const CACHE_TTL: Duration = Duration::from_secs(60);

/// The cached state of an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedOutput {
    /// The last stored piece.
    pub(super) tail: Option<Piece>,
    /// Maximum size of the output.
    pub(super) limit: u64,
    /// Time at which it was read.
    pub(super) read_at: Instant,
}

impl CachedOutput {
    /// Returns the offset of the next piece.
    pub(super) fn next(self) -> u64 {
        self.tail.map_or(0, Piece::end)
    }
}

/// Cached states of outputs: how much of each is stored, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct OutputCache(Mutex<HashMap<OutputId, CachedOutput>>);

impl OutputCache {
    pub(super) fn get(&self, output: &OutputId) -> Option<CachedOutput> {
        let cached = self.0.lock().get(output).copied();
        cached.filter(|cached| {
            output.stream != OutputStream::File || cached.read_at.elapsed() < CACHE_TTL
        })
    }

    pub(super) fn set(&self, output: OutputId, value: CachedOutput) {
        let mut cached = self.0.lock();
        if cached.len() >= MAX_CACHED_OUTPUTS {
            cached.clear();
        }
        cached.insert(output, value);
    }

    /// Removes a run's file from the cache.
    pub(super) fn remove(&self, project: &ProjectId, operation: OperationId, device: DeviceId) {
        let stream = OutputStream::File;
        let output = OutputId { project: project.clone(), operation, device, stream };
        self.0.lock().remove(&output);
    }
}
