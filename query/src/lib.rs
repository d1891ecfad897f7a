//! The read side of muster: projections of the log, and the API that serves them.

pub mod projections;
