//! Messages between devices and servers that are not events: enrollment, credentials, hello,
//! acks, config.
//!
//! Whatever makes the agent act is sealed by the project's operation key ([`Welcome`],
//! [`ConfigUpdate`]); whatever proves a device is sealed by its signing key.

mod enrollment;
mod session;
mod token_text;

pub use enrollment::{
    ContinueProof, CredentialsProof, CredentialsRequest, CredentialsResponse, EnrollProof,
    EnrollRequest, EnrollResponse, EnrollWaiting, NonceRequest, NonceResponse,
};
pub use session::{Ack, ConfigUpdate, Hello, NewEpoch, Welcome};
pub use token_text::{ApiTokenText, EnrollmentTokenText, InvalidToken};
