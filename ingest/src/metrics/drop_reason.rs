//! The causes for which metrics are dropped: values of a counter's label, and of a warning.

/// Why points or a message were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum DropReason {
    /// A name or value that no store accepts.
    Invalid,
    /// A field of a built-in measurement with another type than the fixed one.
    WrongType,
    /// Older than the project's retention.
    PastRetention,
    /// Older than the maximum age of a point.
    TooOld,
    /// Further in the future than the maximum.
    TooNew,
    /// In a further shard than a device may write to in a day.
    TooManyShards,
    /// In a further series than a device may have.
    TooManySeries,
    /// More messages per second than a device may send.
    MessageRate,
    /// More bytes per second than a device may send.
    ByteRate,
}

impl DropReason {
    /// The label of the counter.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::WrongType => "wrong_type",
            Self::PastRetention => "past_retention",
            Self::TooOld => "too_old",
            Self::TooNew => "too_new",
            Self::TooManyShards => "too_many_shards",
            Self::TooManySeries => "too_many_series",
            Self::MessageRate => "message_rate",
            Self::ByteRate => "byte_rate",
        }
    }
}
