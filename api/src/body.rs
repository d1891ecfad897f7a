//! The body of a request: JSON, validated against its type. A refusal names the field, the rule and
//! the value.
//!
//! Types derive `#[serde(deny_unknown_fields)]`; the router limits the size (`DefaultBodyLimit`).

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::{Kind, Problem};

/// A JSON body of a request or a response. Unlike axum's own, it refuses with a [`Problem`].
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                "the body must be JSON: send the header Content-Type: application/json",
            ));
        }
        parse(&read_body(request, state).await?).map(Self)
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
            Problem::field("body", "could not be read completely", None)
        }
    })
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Parses JSON; an error names the field.
///
/// # Errors
/// A validation problem.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Every body is an object; serde would accept an array as one, with its fields in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        let value = serde_json::from_slice(bytes).ok();
        return Err(Problem::field("body", "must be an object", value));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let inner = error.inner();
        if inner.is_data() {
            let (path, rule) = (error.path().to_string(), without_position(inner));
            let field = field_name(&path, &rule);
            let value = value_at(bytes, if field == "body" { "" } else { &field });
            Problem::field(field, rule, value)
        } else {
            Problem::field("body", format!("is not JSON: {inner}"), None)
        }
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::field("body", format!("is not one JSON value: {error}"), None))?;
    Ok(parsed)
}

/// Removes the position that serde_json appends ("at line 1 column 2"): the field's name is
/// clearer.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text.get(..at).unwrap_or(&text).to_owned(),
        None => text,
    }
}

/// Returns the field that an error is about. For a missing or unknown field, serde's path ends at
/// the surrounding object, and the message names the field.
pub(crate) fn field_name(path: &str, rule: &str) -> String {
    let named = rule
        .strip_prefix("missing field `")
        .or_else(|| rule.strip_prefix("unknown field `"))
        .or_else(|| rule.strip_prefix("duplicate field `"))
        .and_then(|rest| rest.split('`').next());
    let path = if path == "." { "" } else { path };
    match named {
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None if path.is_empty() => "body".to_owned(),
        None => path.to_owned(),
    }
}

/// Returns the value at a path such as `labels.env` or `targets[2].name`.
fn value_at(bytes: &[u8], path: &str) -> Option<serde_json::Value> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    if let Some(found) = value.get_mut(path) {
        return Some(found.take());
    }
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        if !name.is_empty() {
            value = value.get_mut(name)?.take();
        }
        for index in indices.split(['[', ']']).filter(|text| !text.is_empty()) {
            value = value.get_mut(index.parse::<usize>().ok()?)?.take();
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Sample {
        name: muster_schemas::names::DeviceName,
        #[serde(default)]
        labels: muster_schemas::names::Labels,
        #[serde(default)]
        parts: Vec<u8>,
    }

    #[test]
    fn every_validation_error_names_the_field_and_the_value() {
        for (body, field, value) in [
            ("{}", "name", None),
            (r#"{"name":"a","nmae":1}"#, "nmae", Some("1")),
            (r#"{"name":"A b"}"#, "name", Some(r#""A b""#)),
            (r#"{"name":7}"#, "name", Some("7")),
            (r#"{"name":"a","labels":{"env":"a b"}}"#, "labels.env", Some(r#""a b""#)),
            (r#"{"name":"a","parts":[1,300]}"#, "parts[1]", Some("300")),
            (r#"{"name":"a","name":"b"}"#, "name", Some(r#""b""#)),
            ("[]", "body", Some("[]")),
            ("{", "body", None),
            ("", "body", None),
            (r#"{"name":"a"} x"#, "body", None),
        ] {
            let problem = parse::<Sample>(body.as_bytes()).unwrap_err().document();
            let error = problem.errors.first().unwrap();
            assert_eq!(error.field, field, "{body}: {error:?}");
            let reported = error.value.as_ref().map(ToString::to_string);
            if body != "[]" {
                assert_eq!(reported.as_deref(), value, "{body}: {error:?}");
            }
        }
    }
}
