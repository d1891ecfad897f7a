//! The names in the API (docs/api.md, "Names"): one spelling for each idea, and a unit in each
//! number's name. The requests of agents follow docs/protocol.md instead.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{document, resolve};

/// Numbers without a unit: they are identifiers, or defined elsewhere.
const NUMBERS: &[&str] = &[
    "id",
    "version",
    "schema_version",
    "applied_version",
    "position",
    "updated_position",
    "epoch",
    "newest_seq",
    "exit_code",
    "signal",
    "pid",
    "port",
    "value",
    "cpu_cores",
];
/// Endings of numbers with a unit.
const UNITS: &[&str] = &["_seconds", "_bytes", "_count", "_percent", "_per_second"];
/// Maxima of numbers of things.
const MAXIMA: &[&str] = &["max_uses", "max_concurrent_devices", "max_failures"];
/// Objects whose values are numbers of things.
const COUNTS: &str = "_counts";
/// Times that are not those of an event in the life of a resource.
const TIMES: &[&str] = &["time", "from", "to"];
/// Spellings of ideas that have another name.
const OTHER_SPELLINGS: &[(&str, &str)] = &[
    ("state", "status"),
    ("since", "…_at"),
    ("timestamp", "…_at"),
    ("last_seen", "last_seen_at"),
    ("ttl_seconds", "expires_in_seconds"),
    ("expires_in", "expires_in_seconds"),
    ("size", "size_bytes"),
    ("bytes", "size_bytes"),
    ("author", "created_by"),
    ("device_id", "device"),
    ("device_name", "device"),
    ("kind_of", "kind"),
];

/// A property of a named schema.
struct Property<'a> {
    schema: &'a str,
    name: &'a str,
    value: &'a Value,
}

/// Returns the names of the schemas that operations of clients use.
fn client_schemas(document: &Value) -> BTreeSet<String> {
    let operations = document["paths"].as_object().unwrap().values();
    let operations = operations.flat_map(|item| item.as_object().unwrap().values());
    let mut open: Vec<&Value> =
        operations.filter(|operation| operation["tags"][0] != "device").collect();
    let mut names = BTreeSet::new();
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                let reference = fields.get("$ref").and_then(Value::as_str);
                if let Some(name) =
                    reference.and_then(|it| it.strip_prefix("#/components/schemas/"))
                    && names.insert(name.to_owned())
                {
                    open.push(&document["components"]["schemas"][name]);
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    names
}

/// Calls `check` for each property of the schema, also those of its parts.
fn each_property<'a>(name: &'a str, schema: &'a Value, check: &mut impl FnMut(&Property<'a>)) {
    for (property, value) in schema["properties"].as_object().into_iter().flatten() {
        check(&Property { schema: name, name: property, value });
    }
    for part in ["allOf", "oneOf", "anyOf"] {
        for part in schema[part].as_array().into_iter().flatten() {
            each_property(name, part, check);
        }
    }
}

/// Returns the schema without `null`.
fn without_null(value: &Value) -> &Value {
    let kinds = value["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    kinds.iter().find(|one| one["type"] != "null").unwrap_or(value)
}

fn has_type(value: &Value, kind: &str) -> bool {
    value["type"] == kind
        || value["type"].as_array().is_some_and(|all| all.iter().any(|one| one == kind))
}

fn ends_with_any(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| name.ends_with(ending))
}

fn violations_of_property(document: &Value, property: &Property<'_>) -> Vec<String> {
    let Property { schema, name, value } = property;
    let value = without_null(value);
    let target = resolve(document, value);
    let (is_time, is_reference) = (target["format"] == "date-time", value["$ref"].is_string());
    let is_number = has_type(target, "integer") || has_type(target, "number");
    let mut rules = Vec::new();
    let mut check = |holds: bool, rule: &str| {
        if !holds {
            rules.push(format!("{schema}.{name} {rule}"));
        }
    };
    for (spelling, other) in OTHER_SPELLINGS {
        check(name != spelling, &format!("has another name: {other}"));
    }
    let is_snake = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    check(is_snake, "is not in snake_case");
    check(!name.starts_with("is_"), "starts with is_: use an adjective or a participle");
    if is_time {
        check(name.ends_with("_at") || TIMES.contains(name), "is a time and does not end in _at");
    } else {
        check(!name.ends_with("_at"), "ends in _at and is no time");
    }
    if is_number {
        let is_named =
            ends_with_any(name, UNITS) || NUMBERS.contains(name) || MAXIMA.contains(name);
        let is_status = *schema == "Problem" && *name == "status";
        check(is_named || is_status, "is a number without a unit in its name");
    }
    if *name == "device" && !has_type(target, "string") {
        check(value["$ref"] == "#/components/schemas/DeviceRef", "is not a reference to a device");
    }
    if *name == "status" && *schema != "Problem" {
        check(is_reference || *schema == "Health", "is not a named enumeration");
    }
    let is_count = |value: &Value| has_type(value, "integer");
    if is_count(&target["additionalProperties"]) {
        check(name.ends_with(COUNTS), "has numbers of things and does not end in _counts");
    }
    let is_object = has_type(target, "object") && target["properties"].is_null();
    if is_object && target["oneOf"].is_null() && target["allOf"].is_null() {
        check(!target["additionalProperties"].is_null(), "does not describe its values");
    }
    if has_type(value, "object") {
        check(value["properties"].is_null(), "is an object without a name");
    }
    if has_type(value, "array") {
        let items = &value["items"];
        check(!has_type(items, "object"), "has items without a name");
    }
    if target["contentEncoding"] == "base64" || target["format"] == "byte" {
        check(name.ends_with("_base64"), "is base64 and does not end in _base64");
    }
    rules
}

fn violations_of_schema(document: &Value, name: &str) -> Vec<String> {
    let schema = &document["components"]["schemas"][name];
    let mut rules = Vec::new();
    let mut names = BTreeMap::new();
    each_property(name, schema, &mut |property| {
        rules.extend(violations_of_property(document, property));
        names.insert(property.name, property.value);
    });
    // Runs are created with their operation, which names the creator.
    if names.contains_key("created_at") && !names.contains_key("created_by") {
        rules.push(format!("{name} has created_at and no created_by"));
    }
    let variants = schema["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    if variants.iter().filter(|one| one["type"] != "null").count() > 1 {
        let is_constant = variants.iter().all(|one| !one["const"].is_null());
        let discriminator = &schema["discriminator"]["propertyName"];
        let is_plain =
            variants.iter().all(|one| one["type"].is_string() && one["type"] != "object");
        if is_plain {
            return rules;
        }
        if !is_constant && discriminator != "kind" {
            rules.push(format!("{name} is a union without a discriminator 'kind'"));
        }
        if !is_constant && variants.iter().any(|one| !one["$ref"].is_string()) {
            rules.push(format!("{name} is a union whose kinds have no names"));
        }
    }
    rules
}

/// Bodies have named schemas; bytes are binary.
fn violations_of_bodies(document: &Value) -> Vec<String> {
    let mut rules = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().into_iter().flatten();
            let bodies = responses.map(|(_, response)| &response["content"]);
            for content in bodies.chain([&operation["requestBody"]["content"]]) {
                for (kind, body) in content.as_object().into_iter().flatten() {
                    let schema = &body["schema"];
                    if kind.ends_with("json") && !schema["$ref"].is_string() {
                        rules.push(format!("{method} {path}: a body of {kind} without a name"));
                    }
                    if kind == "application/octet-stream" && schema["format"] != "binary" {
                        rules.push(format!("{method} {path}: bytes that are not format: binary"));
                    }
                }
            }
        }
    }
    rules
}

#[test]
fn names_in_the_api_follow_its_rules() {
    let document = document();
    let mut rules = violations_of_bodies(&document);
    for name in client_schemas(&document) {
        rules.extend(violations_of_schema(&document, &name));
    }
    assert!(rules.is_empty(), "{} violations:\n{}", rules.len(), rules.join("\n"));
}

/// The rules can fail: each has an example that violates it.
#[test]
fn each_rule_finds_a_violation() {
    let document = serde_json::json!({
        "components": {"schemas": {"Timestamp": {"type": "string", "format": "date-time"}}}
    });
    let check = |name: &str, value: Value| {
        let property = Property { schema: "X", name, value: &value };
        violations_of_property(&document, &property)
    };
    let time = serde_json::json!({"$ref": "#/components/schemas/Timestamp"});
    let nullable = serde_json::json!({"oneOf": [time, {"type": "null"}]});
    for (name, value) in [
        ("started", time.clone()),
        ("started", nullable),
        ("state", serde_json::json!({"type": "string"})),
        ("isOpen", serde_json::json!({"type": "boolean"})),
        ("is_open", serde_json::json!({"type": "boolean"})),
        ("timeout", serde_json::json!({"type": ["integer", "null"]})),
        ("timeout_at", serde_json::json!({"type": "integer"})),
        (
            "runs",
            serde_json::json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        ),
        ("data", serde_json::json!({"type": "object"})),
        ("device", serde_json::json!({"type": "object", "properties": {}})),
        ("items", serde_json::json!({"type": "array", "items": {"type": "object"}})),
        ("record", serde_json::json!({"type": "string", "contentEncoding": "base64"})),
    ] {
        assert!(!check(name, value.clone()).is_empty(), "{name}: {value}");
    }
    assert_eq!(check("started_at", time), Vec::<String>::new());
    assert_eq!(
        check("timeout_seconds", serde_json::json!({"type": "integer"})),
        Vec::<String>::new()
    );
}
