//! Requests and responses of the HTTP API, as command and query serve them and clients use them.
//! Pure: no routes, no clients, no storage.
//!
//! Requests refuse unknown fields. Responses ignore them, and an enumeration that may grow is
//! [`Open`], so that a client can read the responses of a newer server.

pub mod actions;
pub mod bulk;
pub mod dead_letters;
pub mod device_stream;
pub mod devices;
pub mod events;
pub mod headers;
pub mod inventory;
pub mod metrics;
mod open;
pub mod operations;
mod page;
pub mod problems;
pub mod projects;
pub mod runs;
pub mod schema;
pub mod server;
pub mod sessions;
pub mod tokens;
mod union;
pub mod uploads;
mod write;

pub use open::Open;
pub use page::{
    ApiTokenPage, DeadLetterPage, EnrollmentTokenPage, EventPage, MeasurementPage, OperationPage,
    Page, ProjectPage, ProjectionPage, RunPage, SessionPage, UploadPage,
};
pub use write::WriteResult;
