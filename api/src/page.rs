//! The size of a page of a list.

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

/// Maximum number of items in a page: 1 to 1000, default 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(value_type = u16, minimum = 1, maximum = 1000, default = 100, example = 100)]
pub struct Limit(u16);

impl Limit {
    /// Maximum page size.
    pub const MAX: u16 = 1000;

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        if (1..=Self::MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(de::Error::custom("is not from 1 to 1000"))
        }
    }
}
