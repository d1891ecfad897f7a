//! Descriptions of the published language's types (`muster-schemas`) for the OpenAPI document. No
//! values of these types exist: fields of requests and responses have the types of the published
//! language, and name these with `value_type`.

mod enrollment;
mod events;
mod ids;
mod names;
#[cfg(test)]
mod tests;
mod values;

pub use enrollment::{
    CredentialsRequest, CredentialsResponse, EnrollRequest, EnrollResponse, EnrollWaiting,
    NonceRequest, NonceResponse,
};
pub use events::{
    AbortCause, DisconnectReason, EraseCause, EventType, LossCause, RefusalCause, Role, RunStatus,
};
pub use ids::{Bytes, DeviceId, Hash, OperationId, ProjectId, SessionId, Timestamp, TokenId};
pub use names::{
    ConfigKey, DeviceKey, DeviceName, LabelKey, LabelValue, ProjectTitle, Retention, TokenName,
};
pub use values::{ConfigValue, MetricValue};
