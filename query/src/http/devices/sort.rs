//! The sort order of a list, and its cursors.

use muster_api::{Cursor, Problem};
use muster_eventlog::as_i64;
use muster_schemas::{DeviceId, Position, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::walk::WalkCursor;

/// Sort order of a list; `-` for descending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum Sort {
    /// By name.
    #[default]
    #[serde(rename = "name")]
    Name,
    /// By name, descending.
    #[serde(rename = "-name")]
    NameDescending,
    /// By the time last seen, ascending; in the order at the time of the first page.
    #[serde(rename = "last_seen_at")]
    LastSeen,
    /// By the time last seen, descending; in the order at the time of the first page.
    #[serde(rename = "-last_seen_at")]
    LastSeenDescending,
    /// By creation, the oldest first.
    #[serde(rename = "created_at")]
    Created,
    /// By creation, the newest first.
    #[serde(rename = "-created_at")]
    CreatedDescending,
}

/// Attribute by which a list is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Name,
    LastSeen,
    Created,
}

impl Sort {
    pub(super) const fn by(self) -> By {
        match self {
            Self::Name | Self::NameDescending => By::Name,
            Self::LastSeen | Self::LastSeenDescending => By::LastSeen,
            Self::Created | Self::CreatedDescending => By::Created,
        }
    }

    pub(super) const fn is_descending(self) -> bool {
        matches!(self, Self::NameDescending | Self::LastSeenDescending | Self::CreatedDescending)
    }
}

/// Sort key of a device in a list. Attributes that the list is not sorted by are empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SortKey {
    #[serde(rename = "n", default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(rename = "k", default)]
    pub(super) number: i64,
    #[serde(rename = "d")]
    pub(super) device: DeviceId,
    /// Position of the log at the start of the walk, in a list by name: names are those at this
    /// position.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<Position>,
}

/// Start of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum PageStart {
    /// In an order that was stored at the start of the walk.
    Walk(WalkCursor),
    /// After a device, in an order that does not change.
    After(SortKey),
}

impl PageStart {
    pub(super) fn cursor(self, sort: Sort) -> String {
        Cursor::encode(&(sort, self))
    }

    /// Decodes a cursor that was created for a list of this order.
    pub(super) fn read(cursor: Option<&str>, sort: Sort) -> Result<Option<Self>, Problem> {
        let foreign = || Cursor::foreign(cursor.unwrap_or_default());
        match Cursor::decode::<(Sort, Self)>(cursor)? {
            Some((of, _)) if of != sort => Err(foreign()),
            Some((_, Self::After(key))) if key.name.contains('\0') => Err(foreign()),
            start => Ok(start.map(|(_, start)| start)),
        }
    }
}

impl SortKey {
    /// Returns the sort key of a device in a list of this order.
    pub(super) fn of(
        sort: Sort,
        device: DeviceId,
        name: &str,
        created_position: Position,
        last_seen: Option<Timestamp>,
    ) -> Self {
        let (name, number) = match sort.by() {
            By::Name => (name.to_owned(), 0),
            By::LastSeen => (String::new(), last_seen.map_or(0, Timestamp::micros)),
            By::Created => (String::new(), as_i64(created_position)),
        };
        Self { name, number, device, position: None }
    }

    /// Whether `self` comes after `other` in a list of this order.
    pub(super) fn is_after(&self, other: &Self, sort: Sort) -> bool {
        if sort.is_descending() { self < other } else { self > other }
    }
}

/// Sorts items in memory, and returns one page of them with the cursor of the next page.
pub(super) fn page<T>(
    mut items: Vec<(SortKey, T)>,
    sort: Sort,
    after: Option<&SortKey>,
    limit: usize,
) -> (Vec<(SortKey, T)>, Option<String>) {
    if let Some(after) = after {
        items.retain(|(key, _)| key.is_after(after, sort));
    }
    items.sort_by(|(one, _), (other, _)| {
        let order = one.cmp(other);
        if sort.is_descending() { order.reverse() } else { order }
    });
    let more = items.len() > limit;
    items.truncate(limit);
    let next =
        items.last().filter(|_| more).map(|(key, _)| PageStart::After(key.clone()).cursor(sort));
    (items, next)
}
