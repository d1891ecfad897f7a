//! Responses of the server.

use std::ops::Deref;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// A response, or an item of one: its content, and its JSON as received, which may have more
/// fields. It is serialized as received.
#[derive(Clone, Debug)]
pub struct Received<T> {
    json: Value,
    content: T,
}

impl<T: DeserializeOwned> Received<T> {
    /// Parses the content.
    ///
    /// # Errors
    /// When the JSON is not of this type.
    pub fn from_json(json: Value) -> Result<Self> {
        let content = T::deserialize(&json).context("the server's response is invalid")?;
        Ok(Self::new(json, content))
    }
}

impl<T> Received<T> {
    pub(crate) const fn new(json: Value, content: T) -> Self {
        Self { json, content }
    }

    /// Returns the JSON as received.
    pub(crate) const fn json(&self) -> &Value {
        &self.json
    }

    /// Returns the content.
    pub fn into_content(self) -> T {
        self.content
    }

    /// Returns the JSON of a field; null if there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> Value {
        self.json.get(name).cloned().unwrap_or_default()
    }

    /// Returns the JSON with this value of a field.
    #[must_use]
    pub fn with_field(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut json = self.json.clone();
        if let Some(fields) = json.as_object_mut() {
            fields.insert(name.to_owned(), value.into());
        }
        json
    }
}

impl<T> Deref for Received<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

impl<T> Serialize for Received<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use muster_api_types::WriteResult;
    use muster_schemas::{Position, StreamVersion};
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_kept_in_the_json() {
        let json = json!({"version": 1, "position": 2, "later": {"x": 3}});
        let received = Received::<WriteResult>::from_json(json.clone()).unwrap();
        assert_eq!((received.version, received.position), (StreamVersion(1), Position(2)));
        assert_eq!(serde_json::to_value(&received).unwrap(), json);
        assert_eq!(received.field("later"), json!({"x": 3}));
        assert_eq!(received.field("other"), Value::Null);
        assert_eq!(received.with_field("version", 7).get("version"), Some(&json!(7)));
        assert!(Received::<WriteResult>::from_json(json!({"version": 1})).is_err());
    }
}
