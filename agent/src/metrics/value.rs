//! Number formats of the encoded metrics.

/// Rounds to 0.01 and to the nearest `f32`.
///
/// CBOR encodes a float in the shortest form that keeps its value, so such a number takes at most 5
/// bytes instead of 9. The drawback: 12.34 is sent, and stored, as 12.34000015258789. Values that
/// are not finite stay so, and [`muster_schemas::metrics::Point::field`] drops them.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
pub(crate) fn hundredths(value: f64) -> f64 {
    f64::from(((value * 100.0).round() / 100.0) as f32)
}

/// Returns the number without its fraction, limited to what a `u64` holds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "drops the fraction and saturates, as documented"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}

/// Returns `part` of `whole` in percent by [`hundredths`]; 0 if `whole` is 0.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { hundredths(part as f64 / whole as f64 * 100.0) }
}
