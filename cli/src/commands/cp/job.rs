//! Options and state of a copy, shared by its files.

use std::sync::Arc;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};

use super::link::Link;
use super::progress::{CopyResult, Progress};
use super::rate_limit::RateLimit;

/// Options and state of a copy.
#[derive(Debug)]
pub(super) struct CopyJob {
    pub(super) link: Arc<Link>,
    pub(super) rate_limit: RateLimit,
    pub(super) progress: Progress,
    pub(super) jobs: usize,
    pub(super) again: bool,
    pub(super) preserve_special: bool,
}

impl CopyJob {
    /// Copies each item, several concurrently. A failure does not stop the others.
    pub(super) async fn copy_each<T, F>(
        &self,
        all: Vec<T>,
        one: impl Fn(T) -> F,
    ) -> Result<Vec<CopyResult>>
    where
        F: Future<Output = CopyResult>,
    {
        let one = &one;
        let copied = futures::stream::iter(all)
            .map(|what| async move { Ok::<_, anyhow::Error>(one(what).await) })
            .buffer_unordered(self.jobs);
        copied.try_collect().await
    }
}
