//! Converts an OpenAPI document from version 3.1 to 3.0.3: a pure function on JSON.
//!
//! Not a general converter: it knows what this API's document contains. What 3.0 cannot express and
//! only narrows a schema (`propertyNames`) is left out.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Returns the document in OpenAPI 3.0.3.
pub(super) fn to_3_0(mut document: Value) -> Value {
    document["openapi"] = "3.0.3".into();
    if let Some(license) = document.pointer_mut("/info/license").and_then(Value::as_object_mut)
        && let Some(Value::String(id)) = license.remove("identifier")
    {
        license.insert("url".to_owned(), format!("https://spdx.org/licenses/{id}.html").into());
    }
    convert_schemas_in(&mut document);
    let named = document["components"]["schemas"].clone();
    add_types_to_nullable(&mut document, &named);
    document
}

/// Adds the type to each nullable reference: `nullable` has no effect without it.
fn add_types_to_nullable(part: &mut Value, named: &Value) {
    match part {
        Value::Object(fields) => {
            if fields.get("nullable").is_some_and(|nullable| nullable == true)
                && !fields.contains_key("type")
                && let Some(kind) = fields.get("allOf").and_then(|parts| type_of(&parts[0], named))
            {
                fields.insert("type".to_owned(), kind);
            }
            for (name, value) in fields {
                if name != "example" {
                    add_types_to_nullable(value, named);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| add_types_to_nullable(item, named)),
        _ => {}
    }
}

/// Returns the type of a schema, if all of its values have the same one.
fn type_of(schema: &Value, named: &Value) -> Option<Value> {
    if let Some(name) = schema["$ref"].as_str() {
        return type_of(&named[name.rsplit('/').next()?], named);
    }
    let parts = ["allOf", "oneOf", "anyOf"].iter().find_map(|keyword| schema[*keyword].as_array());
    let Some(parts) = parts else {
        return Some(&schema["type"]).filter(|kind| kind.is_string()).cloned();
    };
    let mut types = parts.iter().map(|part| type_of(part, named));
    let first = types.next()??;
    types.all(|kind| kind.as_ref() == Some(&first)).then_some(first)
}

/// Converts the schemas in a part of the document that is no schema itself.
fn convert_schemas_in(part: &mut Value) {
    match part {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("schema", schema) => convert(schema),
                    ("schemas", Value::Object(schemas)) => schemas.values_mut().for_each(convert),
                    // Values of the API, not parts of the document.
                    ("example" | "examples", _) => {}
                    (_, value) => convert_schemas_in(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(convert_schemas_in),
        _ => {}
    }
}

/// Converts a schema.
fn convert(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for (name, value) in fields.iter_mut() {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(convert);
            }
            ("oneOf" | "anyOf" | "allOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(convert);
            }
            ("items" | "additionalProperties" | "not", value) => convert(value),
            _ => {}
        }
    }
    rename_keywords(fields);
    convert_null(fields);
    convert_types(fields);
    wrap_reference(fields);
}

/// Writes keywords of 3.1 with those of 3.0.
fn rename_keywords(fields: &mut Object) {
    fields.remove("propertyNames");
    if let Some(value) = fields.remove("const") {
        fields.insert("enum".to_owned(), json!([value]));
    }
    if let Some(Value::Array(examples)) = fields.remove("examples")
        && let Some(first) = examples.into_iter().next()
    {
        fields.insert("example".to_owned(), first);
    }
    if fields.get("contentEncoding").is_some_and(|encoding| encoding == "base64") {
        fields.remove("contentEncoding");
        fields.insert("format".to_owned(), "byte".into());
    }
    for (exclusive, limit) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if let Some(value) = fields.get_mut(exclusive).filter(|value| value.is_number()) {
            let value = std::mem::replace(value, true.into());
            fields.insert(limit.to_owned(), value);
        }
    }
}

/// Writes "X or null" as X with `nullable`. Parts are already converted, so that null is `null`.
fn convert_null(fields: &mut Object) {
    for keyword in ["oneOf", "anyOf"] {
        let Some(Value::Array(parts)) = fields.get_mut(keyword) else { continue };
        let count = parts.len();
        parts.retain(|part| part["type"] != "null");
        if parts.len() == count {
            continue;
        }
        fields.insert("nullable".to_owned(), true.into());
        let Some(Value::Array(parts)) = fields.get_mut(keyword) else { continue };
        if parts.len() == 1 {
            let only = parts.remove(0);
            fields.remove(keyword);
            merge(fields, only);
        }
    }
}

/// Adds the only remaining part of a union to its schema.
fn merge(fields: &mut Object, part: Value) {
    let Value::Object(part) = part else { return };
    for (name, value) in part {
        fields.entry(name).or_insert(value);
    }
}

/// Writes a list of types as one type with `nullable`, or as a union.
fn convert_types(fields: &mut Object) {
    let Some(Value::Array(types)) = fields.get("type") else { return };
    let mut types = types.clone();
    let count = types.len();
    types.retain(|kind| kind != "null");
    if types.len() < count {
        fields.insert("nullable".to_owned(), true.into());
    }
    if let [only] = types.as_slice() {
        fields.insert("type".to_owned(), only.clone());
    } else {
        fields.remove("type");
        let parts: Vec<Value> = types.into_iter().map(|kind| json!({"type": kind})).collect();
        fields.insert("anyOf".to_owned(), parts.into());
    }
}

/// In 3.0, keywords next to `$ref` are ignored: it becomes the only part of an `allOf`.
fn wrap_reference(fields: &mut Object) {
    if fields.len() > 1
        && let Some(reference) = fields.remove("$ref")
    {
        fields.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: &Value, expected: &Value) {
        let mut converted = schema.clone();
        convert(&mut converted);
        assert_eq!(&converted, expected, "{schema}");
    }

    #[test]
    fn null_becomes_nullable() {
        check(
            &json!({"type": ["string", "null"], "maxLength": 5}),
            &json!({"type": "string", "nullable": true, "maxLength": 5}),
        );
        check(
            &json!({"oneOf": [{"$ref": "#/x"}, {"type": "null", "default": null}], "description": "d"}),
            &json!({"allOf": [{"$ref": "#/x"}], "nullable": true, "description": "d"}),
        );
        check(
            &json!({"oneOf": [{"type": "null"}, {"$ref": "#/x", "description": "d"}]}),
            &json!({"allOf": [{"$ref": "#/x"}], "nullable": true, "description": "d"}),
        );
        check(
            &json!({"anyOf": [{"type": "string"}, {"$ref": "#/x"}, {"type": "null"}]}),
            &json!({"anyOf": [{"type": "string"}, {"$ref": "#/x"}], "nullable": true}),
        );
    }

    #[test]
    fn lists_of_types_become_unions() {
        check(
            &json!({"type": ["string", "number", "null"]}),
            &json!({"anyOf": [{"type": "string"}, {"type": "number"}], "nullable": true}),
        );
    }

    #[test]
    fn a_reference_has_no_siblings() {
        check(&json!({"$ref": "#/x"}), &json!({"$ref": "#/x"}));
        check(
            &json!({"$ref": "#/x", "description": "d", "readOnly": true}),
            &json!({"allOf": [{"$ref": "#/x"}], "description": "d", "readOnly": true}),
        );
    }

    #[test]
    fn keywords_of_3_1_become_those_of_3_0() {
        check(&json!({"const": "a"}), &json!({"enum": ["a"]}));
        check(&json!({"examples": ["a", "b"]}), &json!({"example": "a"}));
        check(&json!({"exclusiveMinimum": 0}), &json!({"exclusiveMinimum": true, "minimum": 0}));
        check(
            &json!({"type": "string", "contentEncoding": "base64"}),
            &json!({"type": "string", "format": "byte"}),
        );
        check(
            &json!({"type": "object", "propertyNames": {"pattern": "a"}, "additionalProperties": {"type": ["string", "null"]}}),
            &json!({"type": "object", "additionalProperties": {"type": "string", "nullable": true}}),
        );
    }

    #[test]
    fn a_nullable_reference_has_the_type_of_its_target() {
        let nullable = |name: &str| {
            let reference = json!({"$ref": format!("#/components/schemas/{name}")});
            json!({"oneOf": [reference, {"type": "null"}]})
        };
        let document = to_3_0(json!({"components": {"schemas": {
            "Text": {"type": "string"},
            "Object": {"type": "object"},
            "Union": {"oneOf": [{"$ref": "#/components/schemas/Object"}, {"type": "object"}]},
            "Mixed": {"anyOf": [{"type": "string"}, {"type": "number"}]},
            "X": {"properties": {
                "text": nullable("Text"), "union": nullable("Union"), "mixed": nullable("Mixed")
            }}
        }}}));
        let properties = &document["components"]["schemas"]["X"]["properties"];
        assert_eq!(properties["text"]["type"], "string");
        assert_eq!(properties["union"]["type"], "object");
        assert_eq!(properties["mixed"]["type"], Value::Null);
        assert_eq!(properties["mixed"]["nullable"], true);
    }

    #[test]
    fn schemas_are_converted_wherever_they_are_and_nothing_else_is() {
        let nullable = json!({"type": ["string", "null"]});
        let content = json!({"schema": nullable, "example": {"schema": nullable}});
        let document = to_3_0(json!({
            "openapi": "3.1.0",
            "info": {"license": {"name": "MIT", "identifier": "MIT"}},
            "paths": {"/x": {"get": {"responses": {"200": {"content": {"application/json": content}}}}}},
            "components": {"schemas": {
                "X": {"type": "object", "properties": {"schema": nullable, "examples": nullable}}
            }}
        }));
        let converted = json!({"type": "string", "nullable": true});
        let content = json!({"schema": converted, "example": {"schema": nullable}});
        assert_eq!(
            document,
            json!({
                "openapi": "3.0.3",
                "info": {"license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"}},
                "paths": {"/x": {"get": {"responses": {"200": {"content": {"application/json": content}}}}}},
                "components": {"schemas": {
                    "X": {"type": "object", "properties": {"schema": converted, "examples": converted}}
                }}
            })
        );
    }
}
