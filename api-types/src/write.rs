//! The result that all writes have.

use muster_schemas::{Position, StreamVersion};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Result of a write.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"version": 3, "position": 42}))]
pub struct WriteResult {
    /// Version of the resource; also the `ETag`.
    #[schema(value_type = u64, example = 3)]
    pub version: StreamVersion,
    /// Position of the write in the project's log. Send it as `Muster-Min-Position` with a read
    /// that must include the write.
    #[schema(value_type = u64, example = 42)]
    pub position: Position,
}
