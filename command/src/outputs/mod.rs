//! Output of programs and files of uploads, which devices send in pieces.
//!
//! `accept` stores the pieces as blobs; `files` knows which files were requested; `live` passes
//! output that is not stored on to its followers, of which `followed` keeps track.

mod accept;
mod cache;
mod files;
mod followed;
mod id;
mod live;

pub use accept::Outputs;
