//! System tests, one module a user story, in one binary. Everything in them is real.
#![allow(clippy::unwrap_used, reason = "a test whose setup is broken shall stop")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod architecture;
mod enroll;
mod everyday;
mod faults;
mod hostile;
mod openapi;
