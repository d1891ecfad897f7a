//! Numbers as they go on the wire.
//!
//! Knows no measurement.

/// Rounds to 0.01 and to the nearest `f32`.
///
/// CBOR writes a float in the shortest form that keeps its value, so such a number takes at most
/// 5 bytes instead of 9. The price: 12.34 travels, and is stored, as 12.34000015258789.
/// What is not finite stays so, and [`muster_schemas::metrics::Point::field`] drops it.
pub(crate) fn hundredths(value: f64) -> f64 {
    f64::from(((value * 100.0).round() / 100.0) as f32)
}

/// `part` of `whole` in percent by [`hundredths`]; 0 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { hundredths(part as f64 / whole as f64 * 100.0) }
}
