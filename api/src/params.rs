//! Query strings and paths, refused with a problem that names the parameter.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::messages;
use crate::problem::Problem;

/// Parameters of every operation: the extractor that needs them reads them ([`crate::Scope`]), and
/// no handler's own type has to name them.
const SHARED: &[&str] = &["project"];

/// A query string, validated against its type. Types derive `#[serde(deny_unknown_fields)]`.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

/// The parameter of every operation of a project; for the OpenAPI document.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `Scope` reads")]
pub struct ProjectParam {
    /// Project, for server-wide tokens; default `default`.
    #[param(
        value_type = Option<String>, example = "default",
        pattern = "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", min_length = 1, max_length = 40
    )]
    project: Option<muster_schemas::ProjectId>,
}

/// No parameters.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Splits a query string into its parameters, in order.
///
/// # Errors
/// When it is not percent-encoded UTF-8.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    serde_urlencoded::from_str(query)
        .map_err(|error| Problem::parameter("query", format!("cannot be read: {error}"), None))
}

/// Parses a query string.
///
/// # Errors
/// A validation problem that names the parameter.
pub fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    from_pairs(pairs(query)?)
}

/// Parses parameters that are already split.
///
/// # Errors
/// A validation problem that names the parameter.
pub fn from_pairs<T: DeserializeOwned>(mut pairs: Vec<(String, String)>) -> Result<T, Problem> {
    pairs.retain(|(name, _)| !SHARED.contains(&name.as_str()));
    let deserializer = serde::de::value::MapDeserializer::new(
        pairs.iter().map(|(name, value)| (name.as_str(), Text(value))),
    );
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let error: serde_path_to_error::Error<serde::de::value::Error> = error;
        let (named, rule) = messages::rule(&error.inner().to_string());
        let name = named.unwrap_or_else(|| error.path().to_string());
        let found = pairs.iter().rfind(|(found, _)| *found == name);
        let value = found.map(|(_, value)| value.clone().into());
        Problem::parameter(name, rule, value)
    })
}

/// A value of a query string, which deserializes to the type that is requested.
#[derive(Clone, Copy)]
struct Text<'a>(&'a str);

impl<'de> serde::de::IntoDeserializer<'de, serde::de::value::Error> for Text<'de> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident, $visit:ident, $type:ty, $rule:literal;)+) => {$(
        fn $method<V: serde::de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            let value: $type = self.0.parse().map_err(|_| serde::de::Error::custom($rule))?;
            visitor.$visit(value)
        }
    )+};
}

impl<'de> serde::Deserializer<'de> for Text<'de> {
    type Error = serde::de::value::Error;

    parsed! {
        deserialize_bool, visit_bool, bool, "is not true or false";
        deserialize_i64, visit_i64, i64, "is not a whole number";
        deserialize_u16, visit_u16, u16, "is not a whole number from 0 to 65535";
        deserialize_u32, visit_u32, u32, "is not a whole number from 0 to 4294967295";
        deserialize_f64, visit_f64, f64, "is not a number";
    }

    /// Positions and versions fit in 63 bits, in the log and in the OpenAPI document.
    fn deserialize_u64<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0.parse::<u64>() {
            Ok(number) if i64::try_from(number).is_ok() => visitor.visit_u64(number),
            _ => {
                Err(serde::de::Error::custom("is not a whole number from 0 to 9223372036854775807"))
            }
        }
    }

    fn deserialize_any<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: serde::de::Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: serde::de::Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let text: serde::de::value::StrDeserializer<'de, Self::Error> =
            serde::de::IntoDeserializer::into_deserializer(self.0);
        text.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The parts of the path. A part that does not parse names no resource: 404.
#[derive(Clone, Copy, Debug)]
pub struct PathParam<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParam<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(PathRejection::MissingPathParams(error)) => Err(Problem::internal(&error)),
            Err(_) => Err(Problem::not_found(format!(
                "there is no resource at {}",
                parts.uri.path().chars().take(200).collect::<String>(),
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::Position;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(default)]
        limit: crate::Limit,
        position: Option<Position>,
        at: Option<muster_schemas::Timestamp>,
        role: Option<muster_schemas::events::Role>,
    }

    #[test]
    fn valid_parameters_are_parsed_and_invalid_ones_are_named() {
        let read: Sample =
            parse("position=7&project=x&role=admin&at=2026-11-23T08:00:00Z").unwrap();
        assert_eq!((read.position, read.limit.get()), (Some(Position(7)), 100));
        assert!(read.at.is_some() && read.role.is_some());
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=x", "limit"),
            ("position=-1", "position"),
            ("position=", "position"),
            ("at=yesterday", "at"),
            ("role=root", "role"),
            ("nope=1", "nope"),
            ("position=1&position=2", "position"),
        ] {
            let problem = parse::<Sample>(query).unwrap_err().document();
            assert_eq!(problem.errors[0].parameter.as_deref(), Some(field), "{query}: {problem:?}");
            assert!(problem.errors[0].value.is_some(), "{query}");
        }
    }
}
