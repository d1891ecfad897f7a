//! Why a server does not start with these options.

/// An option, or a combination of options, is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidOption(pub String);
