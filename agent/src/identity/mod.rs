//! Who this device is: its own keys, and what it pinned when it enrolled.
//!
//! Private keys are made here and never leave the data folder. Asks no server: that is
//! `crate::enroll`'s.

mod http;
mod keys;
mod stored;

pub use http::{Http, HttpError};
pub use keys::DeviceKeys;
pub use stored::{Credentials, Identity, to_pem};
