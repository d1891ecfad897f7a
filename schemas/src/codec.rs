//! The one CBOR codec: all CBOR that muster reads or writes goes through it.
//!
//! Strict on reading: no trailing bytes, nesting of at most [`MAX_DEPTH`], no duplicate keys (serde's
//! derived structs refuse them; maps use [`unique_map`]). Signed bytes are never encoded again: they
//! are hashed, verified and stored as received.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Maximum nesting depth.
pub const MAX_DEPTH: usize = 16;

/// The bytes are not the expected CBOR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not CBOR, or not of the expected shape.
    #[error("not the expected CBOR: {0}")]
    Malformed(String),
    /// Bytes after the value.
    #[error("{0} bytes follow the CBOR value")]
    TrailingBytes(usize),
}

/// Encodes a value.
///
/// Cannot fail: the sink is memory, and every type of this crate can be written as CBOR.
#[must_use]
#[expect(clippy::expect_used, reason = "the sink is memory and the types are all serializable")]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    ciborium::into_writer(value, &mut bytes).expect("the types of this crate are CBOR");
    bytes
}

/// Decodes one value from all of `bytes`.
///
/// # Errors
/// When the bytes are not CBOR of this shape, are nested deeper than [`MAX_DEPTH`], or continue
/// after the value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
        .map_err(|error| DecodeError::Malformed(describe(&error)))?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes(rest.len())) }
}

fn describe(error: &ciborium::de::Error<std::io::Error>) -> String {
    match error {
        ciborium::de::Error::Io(_) => "the bytes end too early".to_owned(),
        ciborium::de::Error::Syntax(at) => format!("no CBOR at byte {at}"),
        ciborium::de::Error::Semantic(_, what) => what.chars().take(300).collect(),
        ciborium::de::Error::RecursionLimitExceeded => {
            format!("nested deeper than {MAX_DEPTH} levels")
        }
    }
}

/// For `#[serde(deserialize_with = …)]`: a map without duplicate keys.
///
/// # Errors
/// When a key is duplicated.
pub fn unique_map<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    struct Unique<K, V>(PhantomData<(K, V)>);

    impl<'de, K, V> Visitor<'de> for Unique<K, V>
    where
        K: Deserialize<'de> + Ord + fmt::Debug,
        V: Deserialize<'de>,
    {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map without duplicate keys")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = access.next_entry()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("duplicate key {key:?}")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Unique(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    struct Sample {
        a: u8,
        #[serde(deserialize_with = "unique_map", default)]
        m: BTreeMap<String, u8>,
    }

    #[test]
    fn trailing_bytes_duplicates_and_excessive_depth_are_rejected() {
        let good = encode(&Sample { a: 1, m: BTreeMap::from([("x".into(), 2)]) });
        assert!(decode::<Sample>(&good).is_ok());

        let mut trailing = good;
        trailing.push(0);
        assert_eq!(decode::<Sample>(&trailing), Err(DecodeError::TrailingBytes(1)));

        // {"a": 1, "a": 2}
        assert!(decode::<Sample>(&[0xa2, 0x61, b'a', 1, 0x61, b'a', 2]).is_err());
        // {"a": 1, "m": {"x": 1, "x": 2}}
        let twice = [0xa2, 0x61, b'a', 1, 0x61, b'm', 0xa2, 0x61, b'x', 1, 0x61, b'x', 2];
        assert!(decode::<Sample>(&twice).is_err());

        let deep = [vec![0x81; 100_000], vec![0]].concat();
        assert!(decode::<ciborium::Value>(&deep).is_err());
    }

    #[test]
    fn a_claimed_size_does_not_allocate_memory() {
        // A byte string, an array and a map that claim 2^62 entries.
        for head in [0x5b, 0x9b, 0xbb] {
            let bytes = [head, 0x40, 0, 0, 0, 0, 0, 0, 0];
            assert!(decode::<ciborium::Value>(&bytes).is_err());
        }
    }
}
