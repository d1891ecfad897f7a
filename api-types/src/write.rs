//! The result that all writes have.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Result of a write.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct WriteResult {
    /// Version of the resource; also the `ETag`.
    #[schema(example = 3)]
    pub version: u64,
    /// Position of the write in the project's log. Send it as `Muster-Min-Position` with a read
    /// that must include the write.
    #[schema(example = 42)]
    pub position: u64,
}
