//! The identity of this device: its own keys, and what it pinned when it enrolled.
//!
//! Private keys are created here and never leave the data folder. `crate::enroll` makes the
//! requests to the server.

mod addressee;
mod http;
mod keys;
mod stored;

pub(crate) use addressee::{CurrentIdentity, NotForDevice, is_expired, is_for};
pub use http::{Http, HttpError};
pub use keys::DeviceKeys;
pub use stored::{Credentials, Identity, to_pem};
