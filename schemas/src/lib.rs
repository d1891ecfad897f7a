//! The published language of muster: the data that devices, servers and auditors exchange.
//!
//! Ids, events, metric batches, subjects, the CBOR codec and COSE sealing. Everything here is a
//! pure function of its arguments: no clock, no randomness, no I/O.
//!
//! Invariant: this crate is independent of tokio, NATS, PostgreSQL and HTTP.
//! Invariant: a stored shape is permanent. It changes by a new version and an upcaster
//! ([`upcast`]), and each shape that was ever stored has a golden file in `schemas/golden/`.

pub mod authority;
pub mod codec;
pub mod compress;
pub mod cose;
pub mod envelope;
pub mod errors;
pub mod events;
pub mod ids;
pub mod metric_names;
pub mod metric_rules;
pub mod metrics;
pub mod names;
pub mod numbers;
pub mod retention;
pub mod run;
pub mod selector;
pub mod stream;
pub mod subjects;
pub mod timestamp;
pub mod units;
pub mod upcast;
pub mod wire;

pub use cose::{Hash, PublicKey, SigningKey};
pub use envelope::DeviceEnvelope;
pub use events::Event;
pub use ids::{ChannelId, DeviceId, OperationId, ProjectId, SessionId, TokenId};
pub use numbers::{ConfigVersion, Epoch, Position, Seq, StreamVersion};
pub use retention::Retention;
pub use run::RunState;
pub use stream::StreamName;
pub use timestamp::Timestamp;
