//! Numbers as PostgreSQL stores them.

/// Converts to PostgreSQL's signed integers; epochs and versions were limited to 63 bits on input.
pub(crate) fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
