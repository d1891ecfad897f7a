//! The write side: decides what people and devices ask for, appends it, and tells the device.
//!
//! It alone holds the account signing key, the operation keys and the CA. It never writes a read
//! model and never reads one: what it must know, it folds from the streams that it is about to
//! append to.

pub mod channels;
pub mod dispatch;
pub mod domain;
pub mod http;
pub mod keys;
pub mod link;
pub mod service;
pub mod uploads;
