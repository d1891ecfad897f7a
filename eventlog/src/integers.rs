//! Numbers as PostgreSQL stores them.

use tokio_postgres::Row;

/// Converts to PostgreSQL's signed integers; epochs and versions were limited to 63 bits on input.
#[must_use]
pub fn as_i64(number: impl Into<u64>) -> i64 {
    i64::try_from(number.into()).unwrap_or(i64::MAX)
}

/// Returns a column that contains a number from 0, such as a position.
pub(crate) fn number<T: From<u64>>(row: &Row, column: usize) -> T {
    row.get::<_, i64>(column).unsigned_abs().into()
}
