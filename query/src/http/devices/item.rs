//! An item of a list of devices: the part that the read model stores as JSON, and the additions from
//! memory. The stored part is sent as it is, without decoding it.

use std::fmt::Write;

use muster_api::Problem;
use muster_api_types::metrics::MetricsSummary;
use muster_schemas::{DeviceId, Position, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use super::sort::{Sort, SortKey};
use super::view::Live;

/// The columns of [`ListedDevice`].
pub(super) const COLUMNS: &str = "device, name, created_position, heard_at, item";

/// A row of the read model, as far as a list shows it.
#[derive(Clone, Debug)]
pub(super) struct ListedDevice {
    id: DeviceId,
    name: Option<String>,
    created_position: Position,
    heard_at: Option<Timestamp>,
    /// The stored part of the item.
    item: String,
}

pub(super) type Row = (Uuid, Option<String>, i64, Option<i64>, String);

impl From<Row> for ListedDevice {
    fn from((id, name, created_position, heard_at, item): Row) -> Self {
        Self {
            id: DeviceId(id),
            name,
            created_position: Position(created_position.unsigned_abs()),
            heard_at: heard_at.map(Timestamp),
            item,
        }
    }
}

/// What the read model does not have.
#[derive(Serialize)]
struct Additions {
    last_seen_at: Option<Timestamp>,
    metrics: Option<MetricsSummary>,
}

impl ListedDevice {
    pub(super) const fn id(&self) -> DeviceId {
        self.id
    }

    pub(super) fn sort_key(&self, live: &Live<'_>, sort: Sort) -> SortKey {
        let name = self.name.as_deref().unwrap_or_default();
        SortKey::of(sort, self.id, name, self.created_position, self.last_seen(live))
    }

    fn last_seen(&self, live: &Live<'_>) -> Option<Timestamp> {
        live.last_seen(self.id, self.heard_at)
    }

    /// Returns the item as JSON.
    pub(super) fn json(&self, live: &Live<'_>) -> Result<String, Problem> {
        let additions =
            Additions { last_seen_at: self.last_seen(live), metrics: live.metrics(self.id) };
        let additions = json(&additions)?;
        let (Some(stored), Some(added)) =
            (self.item.strip_suffix('}'), additions.strip_prefix('{'))
        else {
            let message = format!("the stored item of device {} is no object", self.id);
            return Err(Problem::internal(&std::io::Error::other(message)));
        };
        Ok(format!("{stored},{added}"))
    }
}

/// Encodes a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(value).map_err(|error| Problem::internal(&error))
}

/// The fields of a page other than its items; they are left out when they are empty.
#[derive(Debug, Serialize)]
pub(super) struct PageEnd<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) without_fresh_value: Vec<T>,
}

/// Returns a page as JSON.
pub(super) fn page_json<T: Serialize>(
    items: &[String],
    end: &PageEnd<T>,
) -> Result<String, Problem> {
    let mut text = format!("{{\"items\":[{}]", items.join(","));
    match json(end)?.strip_prefix('{') {
        Some(rest) if rest != "}" => {
            let _ = write!(text, ",{rest}");
        }
        _ => text.push('}'),
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_page_is_json_with_and_without_its_optional_fields() {
        for (items, next, without, expected) in [
            (vec![], None, vec![], json!({"items": []})),
            (vec!["{}"], Some("a\"b"), vec![], json!({"items": [{}], "next": "a\"b"})),
            (vec!["1", "2"], None, vec![7], json!({"items": [1, 2], "without_fresh_value": [7]})),
        ] {
            let items: Vec<String> = items.into_iter().map(str::to_owned).collect();
            let end = PageEnd { next: next.map(str::to_owned), without_fresh_value: without };
            let text = page_json(&items, &end).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected, "{text}");
        }
    }
}
