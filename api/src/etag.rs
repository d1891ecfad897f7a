//! Entity tags: the version of a resource's own stream, and its comparison with `If-Match`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use muster_schemas::StreamVersion;

use crate::problem::{Kind, Problem};

/// Returns the `ETag` header of a resource at a version of its stream.
#[must_use]
pub fn etag(version: StreamVersion) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::try_from(format!("\"{version}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    (header::ETAG, value)
}

/// The header that [`IfMatch`] reads, for the OpenAPI document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what `IfMatch` reads")]
pub struct IfMatchParam {
    /// The ETag that the resource must have, or `*`.
    #[param(rename = "If-Match", value_type = String, required = false, example = "*", min_length = 1)]
    tags: Option<String>,
}

/// The header that requires that a resource does not exist, for the OpenAPI document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes what a `PUT` reads")]
pub struct IfNoneMatchParam {
    /// `*`: the resource is created, and one that exists is not replaced (412).
    #[param(rename = "If-None-Match", value_type = String, required = false, pattern = "^\\*$")]
    tag: Option<String>,
}

/// The version that the client expects the resource to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// The header is absent.
    Absent,
    /// `*`: the resource exists.
    Any,
    /// One of these versions. Tags that no resource can have are not included.
    Versions(Vec<StreamVersion>),
}

impl IfMatch {
    /// Parses the header's value.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        if value.trim() == "*" {
            return Self::Any;
        }
        // Weak tags never match in `If-Match` (RFC 9110 §13.1.1).
        let versions = value
            .split(',')
            .filter_map(|tag| {
                let tag = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
                // The rest identifies the body, which may change without a new version.
                tag.split('-').next()?.parse().ok()
            })
            .collect();
        Self::Versions(versions)
    }

    /// Compares the expected version with the current version of the resource.
    ///
    /// # Errors
    /// When the resource was changed in the meantime: 412.
    pub fn check(&self, version: StreamVersion) -> Result<(), Problem> {
        match self {
            Self::Versions(versions) if !versions.contains(&version) => Err(Problem::new(
                Kind::PreconditionFailed,
                format!(
                    "the resource is at version \"{version}\", not at the version in If-Match; \
                    read it again, then retry"
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let values: Vec<&str> = parts
            .headers
            .get_all(header::IF_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        match values.as_slice() {
            [] => Ok(Self::Absent),
            // The client intended a conditional write, but named no version.
            [value] if value.trim().is_empty() => {
                Err(Problem::header("If-Match", "is empty: send an ETag, or *", Some("".into())))
            }
            values => Ok(Self::parse(&values.join(","))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_current_version_matches() {
        for (value, fits) in [
            ("*", true),
            ("\"7\"", true),
            ("\"6\", \"7\"", true),
            ("\"6\"", false),
            ("W/\"7\"", false),
            ("7", false),
            ("\"x\"", false),
            ("", false),
        ] {
            assert_eq!(IfMatch::parse(value).check(StreamVersion(7)).is_ok(), fits, "{value}");
        }
        assert!(IfMatch::Absent.check(StreamVersion(7)).is_ok());
    }
}
