//! The published language against its own documents: golden files, CDDL, and arbitrary bytes.

#![allow(clippy::too_many_lines, reason = "a test is a sequence of steps")]
#![expect(clippy::unwrap_used, reason = "a test that cannot read its files has failed")]

mod arbitrary;
mod cddl;
mod golden;
mod samples;
