//! Checks the body of a request against the schema that the OpenAPI document has for it. All broken
//! rules are found, each with a JSON Pointer; serde stops at the first one.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError, Validator};
use muster_api_types::schema;
use muster_schemas::names;
use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use crate::pointer::Pointer;

/// Maximum number of broken rules in a problem.
const MAX_ERRORS: usize = 20;

/// A rule that a value of the body breaks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) pointer: Pointer,
    pub(crate) rule: String,
    pub(crate) value: Option<Value>,
}

/// Returns the rules that a body of this type breaks.
pub(crate) fn violations<T: ToSchema + 'static>(body: &Value) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(validator) = validator::<T>() else {
        return found;
    };
    for error in validator.iter_errors(body) {
        explain(&error, &mut found);
        if found.len() >= MAX_ERRORS {
            break;
        }
    }
    found.truncate(MAX_ERRORS);
    found
}

/// Validators by type: each is created once.
static VALIDATORS: LazyLock<RwLock<HashMap<TypeId, Option<Arc<Validator>>>>> =
    LazyLock::new(RwLock::default);

fn validator<T: ToSchema + 'static>() -> Option<Arc<Validator>> {
    let id = TypeId::of::<T>();
    if let Some(known) = VALIDATORS.read().get(&id) {
        return known.clone();
    }
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    let parts: Map<String, Value> =
        parts.into_iter().map(|(name, schema)| (name, json!(schema))).collect();
    let mut root = json!(T::schema());
    root["components"] = json!({"schemas": parts});
    // A schema that cannot be used does not refuse requests: serde still parses them. The test of
    // all request types finds it.
    let validator = match jsonschema::draft202012::new(&root) {
        Ok(validator) => Some(Arc::new(validator)),
        Err(error) => {
            tracing::error!(%error, schema = %T::name(), "a schema of the API is invalid");
            None
        }
    };
    VALIDATORS.write().insert(id, validator.clone());
    validator
}

fn explain(error: &ValidationError<'_>, found: &mut Vec<Violation>) {
    let at = Pointer::parse(error.instance_path().as_str());
    let value = error.instance();
    let mut add = |pointer: Pointer, rule: String, value: Option<&Value>| {
        found.push(Violation { pointer, rule, value: value.cloned() });
    };
    match error.kind() {
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            explain_union(&at, value, context, found);
        }
        ValidationErrorKind::Required { property } => {
            add(at.join(property.as_str().unwrap_or_default()), "is required".to_owned(), None);
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            for name in unexpected {
                let rule = "is not a field of this request".to_owned();
                add(at.join(name), rule, value.get(name));
            }
        }
        ValidationErrorKind::PropertyNames { error } => {
            let name = error.instance().as_str().unwrap_or_default();
            let rule = rule(error.kind(), error.instance());
            add(at.join(name), format!("has a key that {rule}"), None);
        }
        kind => add(at, rule(kind, value), Some(value)),
    }
}

/// Explains the kind of a union that the value has, by its `kind` or because it is not null.
fn explain_union(
    at: &Pointer,
    value: &Value,
    kinds: &[Vec<ValidationError<'static>>],
    found: &mut Vec<Violation>,
) {
    let tag = at.join("kind");
    let is_about = |error: &ValidationError<'_>, pointer: &Pointer| {
        Pointer::parse(error.instance_path().as_str()) == *pointer
    };
    let is_null_kind = |errors: &[ValidationError<'_>]| {
        let only_null = |error: &ValidationError<'_>| {
            matches!(
                error.kind(),
                ValidationErrorKind::Type { kind: TypeKind::Single(JsonType::Null) }
            )
        };
        errors.iter().any(|error| is_about(error, at) && only_null(error))
    };
    let kinds: Vec<_> = kinds.iter().filter(|errors| !is_null_kind(errors)).collect();
    let matching = kinds.iter().find(|errors| !errors.iter().any(|error| is_about(error, &tag)));
    if value.is_object() && value.get("kind").is_none() && kinds.len() > 1 {
        let rule = "is required".to_owned();
        found.push(Violation { pointer: tag, rule, value: None });
    } else if let Some(errors) = matching {
        for error in *errors {
            explain(error, found);
        }
    } else {
        let options: Vec<&str> = kinds
            .iter()
            .flat_map(|errors| errors.iter())
            .filter(|error| is_about(error, &tag))
            .filter_map(|error| match error.kind() {
                ValidationErrorKind::Enum { options } => options.get(0)?.as_str(),
                _ => None,
            })
            .collect();
        let rule = format!("must be one of {}", options.join(", "));
        found.push(Violation { pointer: tag, rule, value: value.get("kind").cloned() });
    }
}

/// Returns the text of a broken rule.
fn rule(kind: &ValidationErrorKind, value: &Value) -> String {
    match kind {
        ValidationErrorKind::Type { kind } => type_rule(kind, value),
        ValidationErrorKind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            let options: Vec<String> = options.iter().map(plain).collect();
            format!("must be one of {}", options.join(", "))
        }
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MinLength { limit } => {
            format!("must be at least {limit} characters long")
        }
        ValidationErrorKind::MaxLength { limit } => {
            format!("must be at most {limit} characters long")
        }
        ValidationErrorKind::MinItems { limit: 1 } => "must have at least one item".to_owned(),
        ValidationErrorKind::MinItems { limit } => format!("must have at least {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("must have at most {limit} items"),
        ValidationErrorKind::Pattern { pattern } => match PATTERNS.get(pattern) {
            Some(rule) => rule.clone(),
            None => format!("must match the pattern {pattern}"),
        },
        _ => "does not match its schema in the OpenAPI document".to_owned(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn type_rule(kind: &TypeKind, value: &Value) -> String {
    let name = |kind: JsonType| match kind {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    };
    let kinds = match kind {
        TypeKind::Single(kind) => name(*kind).to_owned(),
        TypeKind::Multiple(kinds) => kinds.iter().map(name).collect::<Vec<_>>().join(" or "),
    };
    let is_fraction = value.is_f64() && kinds.contains("whole number");
    let hint = if is_fraction { ", without a fraction or an exponent" } else { "" };
    format!("must be {kinds}{hint}")
}

/// The rule of each pattern of the document as text, from the type's own parser.
static PATTERNS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    /// Text that no pattern allows.
    const INVALID: &str = "\u{0}";
    fn entry<S: PartialSchema, T: std::str::FromStr>() -> Option<(String, String)>
    where
        T::Err: std::fmt::Display,
    {
        let pattern = json!(S::schema())["pattern"].as_str()?.to_owned();
        // The message quotes the text, which the problem has as the value.
        let message = INVALID.parse::<T>().err()?.to_string();
        let rule = message.strip_prefix("'\u{0}' ").unwrap_or(&message);
        Some((pattern, rule.to_owned()))
    }
    [
        entry::<schema::DeviceName, names::DeviceName>(),
        entry::<schema::LabelKey, names::LabelKey>(),
        entry::<schema::LabelValue, names::LabelValue>(),
        entry::<schema::ConfigKey, names::ConfigKey>(),
        entry::<schema::TokenName, names::TokenName>(),
        entry::<schema::ProjectTitle, names::ProjectTitle>(),
        entry::<schema::ProjectId, muster_schemas::ProjectId>(),
        entry::<schema::Retention, muster_schemas::Retention>(),
        entry::<schema::Hash, muster_schemas::Hash>(),
    ]
    .into_iter()
    .flatten()
    .collect()
});

#[cfg(test)]
mod tests {
    use muster_api_types::devices::{ChangeDevice, RegisterDevice, SetConfig};
    use muster_api_types::operations::RequestOperation;
    use muster_api_types::tokens::CreateEnrollmentToken;

    use super::*;

    /// Each violation as `pointer: rule`.
    fn check<T: ToSchema + 'static>(body: &Value) -> Vec<String> {
        let found = violations::<T>(body);
        found.iter().map(|one| format!("{}: {}", one.pointer, one.rule)).collect()
    }

    #[test]
    fn valid_bodies_break_no_rule() {
        let labels = json!({"name": "robot-7", "labels": {"env": "prod"}, "fingerprint": null});
        assert_eq!(check::<RegisterDevice>(&labels), [""; 0]);
        assert_eq!(check::<ChangeDevice>(&json!({"labels": {"env": null, "a/b": "x"}})), [""; 0]);
        let vars = json!({"vars": {"a": "5s", "b": 3, "c": 1.5, "d": true, "e": null}});
        assert_eq!(check::<SetConfig>(&vars), [""; 0]);
        let operation = json!({
            "target": {"kind": "devices", "devices": ["a"]},
            "action": {"kind": "exec", "argv": ["true"]}, "timeout_seconds": 5
        });
        assert_eq!(check::<RequestOperation>(&operation), [""; 0]);
    }

    #[test]
    fn all_broken_rules_are_found_each_with_its_pointer() {
        let found = check::<RegisterDevice>(&json!({
            "name": "A b", "labels": {"env": "a b", "ok": "x", "n": 7}, "nmae": 1
        }));
        assert_eq!(found.len(), 4, "{found:#?}");
        for start in ["/name: ", "/labels/env: ", "/labels/n: must be", "/nmae: is not a field"] {
            assert!(found.iter().any(|one| one.starts_with(start)), "{start}: {found:#?}");
        }
        let is_readable = |one: &String| !one.contains(['^', '\0']) && !one.contains("pattern");
        assert!(found.iter().all(is_readable), "{found:#?}");
    }

    #[test]
    fn rules_are_readable_text() {
        assert_eq!(check::<RegisterDevice>(&json!({})), ["/name: is required"]);
        assert_eq!(check::<RegisterDevice>(&json!([])), [": must be an object"]);
        assert_eq!(
            check::<CreateEnrollmentToken>(&json!({
                "name": "a", "max_uses": 0, "expires_in_seconds": 1.5, "approval_required": "yes"
            })),
            [
                "/approval_required: must be true or false",
                "/expires_in_seconds: must be a whole number, without a fraction or an exponent",
                "/max_uses: must be at least 1",
            ]
        );
        let found = check::<ChangeDevice>(&json!({"labels": {"a b": "x"}}));
        assert!(found[0].starts_with("/labels/a b: has a key that "), "{found:?}");
    }

    #[test]
    fn unions_are_explained_by_their_kind() {
        let operation = |target: Value, action: Value| {
            check::<RequestOperation>(&json!({"target": target, "action": action}))
        };
        let (target, action) =
            (json!({"kind": "devices", "devices": ["a"]}), json!({"kind": "reboot"}));
        assert_eq!(operation(target.clone(), action.clone()), [""; 0]);
        assert_eq!(operation(json!({}), action.clone()), ["/target/kind: is required"]);
        assert_eq!(
            operation(json!({"kind": "all"}), action.clone()),
            ["/target/kind: must be one of devices, selector"]
        );
        assert_eq!(
            operation(target.clone(), json!({"kind": "exec", "argv": [], "cwd": 7})),
            ["/action/argv: must have at least one item", "/action/cwd: must be null or a string"]
        );
        assert_eq!(operation(target, json!("reboot")), ["/action: must be an object"]);
        assert_eq!(
            operation(json!({"kind": "selector"}), action),
            ["/target/selector: is required"]
        );
    }
}
