//! Lists of the server: an item that this version cannot parse does not hide the others.

use std::ops::Deref;

use anyhow::{Result, anyhow};
use muster_api_types::metrics::WithoutFreshValue;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::received::Received;

/// The items of a list that this version can parse. Serialized, it has all items as received.
#[derive(Clone, Debug)]
pub struct List<T> {
    items: Vec<Received<T>>,
    /// The other items, each with its index in the list.
    unknown: Vec<(usize, Value)>,
    /// Why the first of them cannot be parsed.
    problem: Option<String>,
    /// Of a list of devices: the metrics of the selector of which devices had no fresh value.
    pub(crate) without_fresh_value: Vec<WithoutFreshValue>,
}

impl<T: DeserializeOwned> List<T> {
    pub(crate) fn extend(&mut self, items: impl IntoIterator<Item = Value>) {
        for json in items {
            let index = self.items.len() + self.unknown.len();
            match T::deserialize(&json) {
                Ok(content) => self.items.push(Received::new(json, content)),
                Err(error) => {
                    self.unknown.push((index, json));
                    self.problem.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
}

impl<T> List<T> {
    /// Returns how many items this version cannot parse, and why; `None` if it can parse all.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        let (unknown, total) = (self.unknown.len(), self.items.len() + self.unknown.len());
        Some(format!("{unknown} of {total} items cannot be parsed: {problem}"))
    }

    /// Returns the metrics of the selector of which devices had no fresh value: those devices are not
    /// in the list.
    #[must_use]
    pub fn without_fresh_value(&self) -> &[WithoutFreshValue] {
        &self.without_fresh_value
    }

    /// Returns all items, for a decision that depends on them.
    ///
    /// # Errors
    /// When this version cannot parse one of them.
    pub fn complete(self) -> Result<Vec<Received<T>>> {
        match self.problem() {
            None => Ok(self.items),
            Some(problem) => Err(anyhow!(problem).context("the server's response is invalid")),
        }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            unknown: Vec::new(),
            problem: None,
            without_fresh_value: Vec::new(),
        }
    }
}

impl<T> Deref for List<T> {
    type Target = [Received<T>];

    fn deref(&self) -> &[Received<T>] {
        &self.items
    }
}

impl<T> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut items, mut unknown) = (self.items.iter(), self.unknown.iter().peekable());
        let total = self.items.len() + self.unknown.len();
        serializer.collect_seq((0..total).filter_map(|index| {
            match unknown.next_if(|(at, _)| *at == index) {
                Some((_, json)) => Some(json),
                None => items.next().map(Received::json),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use muster_api_types::WriteResult;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_of_a_later_server_stays_in_its_place_in_the_json() {
        let json = [
            json!({"version": "later"}),
            json!({"version": 1, "position": 2}),
            json!("later"),
            json!({"version": 3, "position": 4}),
        ];
        let mut list = List::<WriteResult>::default();
        list.extend(json.clone());
        assert_eq!(list.iter().map(|item| item.version.get()).collect::<Vec<_>>(), [1, 3]);
        assert!(list.problem().unwrap().starts_with("2 of 4 items"), "{:?}", list.problem());
        assert_eq!(serde_json::to_value(&list).unwrap(), json!(json));
        assert!(list.complete().is_err());
    }
}
