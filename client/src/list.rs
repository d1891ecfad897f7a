//! Lists of the server: an item that this version cannot parse does not hide the others.

use std::ops::Deref;

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
}

impl<T: DeserializeOwned> List<T> {
    pub(crate) fn extend(&mut self, items: impl IntoIterator<Item = Value>) {
        for json in items {
            let index = self.items.len() + self.unknown.len();
            match T::deserialize(&json) {
                Ok(content) => self.items.push(Received::new(json, content)),
                Err(_) => self.unknown.push((index, json)),
            }
        }
    }
}

impl<T> List<T> {
    /// Returns the number of items that this version cannot parse.
    #[must_use]
    pub const fn unknown(&self) -> usize {
        self.unknown.len()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unknown: Vec::new() }
    }
}

impl<T> Deref for List<T> {
    type Target = [Received<T>];

    fn deref(&self) -> &[Received<T>] {
        &self.items
    }
}

impl<T> IntoIterator for List<T> {
    type Item = Received<T>;
    type IntoIter = std::vec::IntoIter<Received<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a Received<T>;
    type IntoIter = std::slice::Iter<'a, Received<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
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
        assert_eq!(list.unknown(), 2);
        assert_eq!(serde_json::to_value(&list).unwrap(), json!(json));
    }
}
