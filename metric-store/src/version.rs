//! The version that a store reports.

/// The version that a store reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The major version: 1, 2 or 3.
    pub major: u32,
    /// The version as the store reports it.
    pub text: String,
}

impl Version {
    /// Parses a version such as `1.8.10` or `v2.7.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let major = text.trim().trim_start_matches('v').split('.').next()?.parse().ok()?;
        Some(Self { major, text: text.trim().to_owned() })
    }
}
