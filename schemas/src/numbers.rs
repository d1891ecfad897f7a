//! Numbers that order events, each of its own type: they start at 1, and 0 means "none yet".

use std::fmt;
use std::num::ParseIntError;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! ordinal {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// None yet.
            pub const ZERO: Self = Self(0);

            /// The first.
            pub const FIRST: Self = Self(1);

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The following number; saturates.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The preceding number; that of 0 is 0.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// How many follow `earlier`, up to and including this one; 0 if `earlier` is later.
            #[must_use]
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        /// Saturates.
        impl Add<u64> for $name {
            type Output = Self;
            fn add(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }
        }

        /// Saturates.
        impl AddAssign<u64> for $name {
            fn add_assign(&mut self, count: u64) {
                *self = *self + count;
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> Self {
                number.0
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

ordinal! {
    /// The position of an event in its project's log.
    Position
}
ordinal! {
    /// The number of events in a stream, which is the version of its newest one.
    StreamVersion
}
ordinal! {
    /// An epoch of a device's history: it starts with an enrollment, or after a fork or a loss.
    Epoch
}
ordinal! {
    /// The number of an event that a device recorded, in one epoch.
    Seq
}
ordinal! {
    /// The number of changes of a device's config.
    ConfigVersion
}

impl Position {
    /// The event's index in the log, from 0; `None` before the first.
    #[must_use]
    pub const fn index(self) -> Option<u64> {
        self.0.checked_sub(1)
    }
}

/// The version of an event in its stream `device-report/<id>/<epoch>` is the device's own number.
impl From<Seq> for StreamVersion {
    fn from(seq: Seq) -> Self {
        Self(seq.0)
    }
}

/// In a stream `device-report/<id>/<epoch>`.
impl From<StreamVersion> for Seq {
    fn from(version: StreamVersion) -> Self {
        Self(version.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_a_plain_number_in_every_encoding() {
        assert_eq!(crate::codec::encode(&Seq(7)), crate::codec::encode(&7_u64));
        assert_eq!("7".parse(), Ok(Epoch(7)));
        assert_eq!(Epoch(7).to_string(), "7");
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Seq(u64::MAX).next(), Seq(u64::MAX));
        assert_eq!(Seq::ZERO.previous(), Seq::ZERO);
        assert_eq!(Position(2).since(Position(5)), 0);
        assert_eq!(Position(5).since(Position(2)), 3);
    }
}
