//! Client of the API: requests and responses as types, and the servers that it knows (contexts).
//!
//! Invariant: it prints nothing and reads no arguments; warnings of the server are passed on.

mod client;
pub mod contexts;
mod error;
mod list;
mod received;
mod socket;

pub use client::{Client, segment};
pub use error::{NoContext, RequestError};
pub use list::List;
pub use received::Received;
pub use socket::{Socket, control};
