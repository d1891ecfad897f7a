//! The body of a request: JSON, validated against its schema and its type. A problem names each location,
//! rule and value.
//!
//! Types derive `#[serde(deny_unknown_fields)]`; the router limits the size (`DefaultBodyLimit`).

use std::fmt;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::messages;
use crate::pointer::Pointer;
use crate::problem::{BrokenRule, Kind, Location, Problem};
use crate::schema::{self, Violation};

/// A JSON body of a request or a response. Unlike axum's own, it refuses with a [`Problem`].
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + ToSchema + 'static, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_media_type(request.headers())?;
        parse(&read_body(request, state).await?).map(Self)
    }
}

/// A JSON body of an agent, whose format docs/protocol.md describes; refused at the first problem.
#[derive(Clone, Copy, Debug)]
pub struct AgentJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for AgentJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_media_type(request.headers())?;
        typed(&json(&read_body(request, state).await?)?).map(Self)
    }
}

/// Reads a whole body, up to the router's limit.
pub(crate) async fn read_body<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == Kind::TooLarge.status() {
            Problem::new(Kind::TooLarge, "the body exceeds the size limit")
        } else {
            Problem::field("", "could not be read completely", None)
        }
    })
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.map(|value| value.to_str().unwrap_or_default()).unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    if !parts.next().unwrap_or_default().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the body must be JSON: send the header Content-Type: application/json",
        ));
    }
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let charset = value.trim_matches('"');
        if name.eq_ignore_ascii_case("charset") && !charset.eq_ignore_ascii_case("utf-8") {
            let detail = format!("the charset {charset} is not supported: JSON is sent in UTF-8");
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
    }
    Ok(())
}

/// Parses JSON and validates it; a problem names all broken rules.
///
/// # Errors
/// A validation problem.
pub fn parse<T: DeserializeOwned + ToSchema + 'static>(bytes: &[u8]) -> Result<T, Problem> {
    let body = json(bytes)?;
    let found = schema::violations::<T>(&body);
    if !found.is_empty() {
        let broken = |it: Violation| BrokenRule::new(Location::Body(it.pointer), it.rule, it.value);
        return Err(Problem::broken(found.into_iter().map(broken).collect()));
    }
    typed(&body)
}

/// Converts JSON to a type.
fn typed<T: DeserializeOwned>(body: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let (named, rule) = messages::rule(&error.inner().to_string());
        let pointer = Pointer::of_path(error.path());
        let pointer = match named {
            Some(name) if !pointer.ends_with(&name) => pointer.join(&name),
            _ => pointer,
        };
        let value = body.pointer(&pointer.to_string()).cloned();
        Problem::broken(vec![BrokenRule::new(Location::Body(pointer), rule, value)])
    })
}

/// Parses JSON: one value in UTF-8, without a key that an object has twice.
fn json(bytes: &[u8]) -> Result<Value, Problem> {
    let invalid = |rule: String| Problem::field("", rule, None);
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(invalid(format!("is not UTF-8 at byte {}", error.valid_up_to())));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed: Result<UniqueKeys, _> = serde_path_to_error::deserialize(&mut deserializer);
    let body = parsed.map_err(|error| {
        let inner = error.inner();
        if !inner.is_data() {
            return invalid(format!("is not JSON: {inner}"));
        }
        let (named, rule) = messages::rule(&inner.to_string());
        let pointer = Pointer::of_path(error.path());
        let pointer = named.map_or(pointer.clone(), |name| pointer.join(&name));
        Problem::broken(vec![BrokenRule::new(Location::Body(pointer), rule, None)])
    })?;
    deserializer.end().map_err(|error| invalid(format!("is not one JSON value: {error}")))?;
    Ok(body.0)
}

/// JSON in which no object has a key twice: what a duplicate means is undefined (RFC 8259 §4).
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor).map(Self)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueKeys(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            let UniqueKeys(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[derive(Debug, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Sample {
        #[schema(value_type = muster_api_types::schema::DeviceName)]
        name: muster_schemas::names::DeviceName,
        #[serde(default)]
        #[schema(value_type = BTreeMap<String, muster_api_types::schema::LabelValue>)]
        labels: muster_schemas::names::Labels,
        #[serde(default)]
        parts: Vec<u8>,
    }

    #[test]
    fn every_validation_error_names_its_location_and_value() {
        for (body, pointer, value) in [
            ("{}", "/name", None),
            (r#"{"name":"a","nmae":1}"#, "/nmae", Some("1")),
            (r#"{"name":"A b"}"#, "/name", Some(r#""A b""#)),
            (r#"{"name":7}"#, "/name", Some("7")),
            (r#"{"name":"a","labels":{"env":"a b"}}"#, "/labels/env", Some(r#""a b""#)),
            (r#"{"name":"a","parts":[1,300]}"#, "/parts/1", Some("300")),
            (r#"{"name":"a","parts":[1e400]}"#, "", None),
            (r#"{"name":"a","parts":[1.5]}"#, "/parts/0", Some("1.5")),
            (r#"{"name":"a","parts":[99999999999999999999999]}"#, "/parts/0", Some("1e+23")),
            (r#"{"name":"a","name":"b"}"#, "/name", None),
            (r#"{"name":"a","labels":{"x":"1","x":"2"}}"#, "/labels/x", None),
            ("[]", "", Some("[]")),
            ("null", "", Some("null")),
            ("{", "", None),
            ("", "", None),
            ("{\"name\":\"a\"} x", "", None),
        ] {
            let problem = parse::<Sample>(body.as_bytes()).unwrap_err().document();
            let error = problem.errors.first().unwrap();
            assert_eq!(error.pointer.as_deref(), Some(pointer), "{body}: {error:?}");
            let reported = error.value.as_ref().map(ToString::to_string);
            assert_eq!(reported.as_deref(), value, "{body}: {error:?}");
            for word in ["u8", "struct", "`", "variant", "invalid type"] {
                assert!(!error.rule.contains(word), "{body}: {error:?}");
            }
        }
        let problem = parse::<Sample>(b"{\"name\":\"\xff\"}").unwrap_err().document();
        assert_eq!(problem.errors[0].rule, "is not UTF-8 at byte 9");
        let deep = "[".repeat(100_000);
        assert!(parse::<Sample>(deep.as_bytes()).is_err());
    }

    #[test]
    fn the_media_type_is_json_in_utf_8() {
        let check = |value: &'static str| {
            let headers = [(header::CONTENT_TYPE, value.parse().unwrap())];
            check_media_type(&HeaderMap::from_iter(headers)).is_ok()
        };
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in ["", "text/plain", "application/json; charset=latin1", "application/jsonp"] {
            assert!(!check(bad), "{bad}");
        }
    }
}
