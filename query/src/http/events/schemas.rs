//! JSON Schemas of the content of events, for the OpenAPI document: `schemas.json` has one for each
//! type of event. The tests validate a sample of each type with them.

use std::collections::BTreeMap;

use utoipa::openapi::{OpenApi, RefOr, Schema};

/// Schemas of the content of events, by the type of event.
const SCHEMAS: &str = include_str!("schemas.json");

/// Adds the schemas of the content of events to the document, named `<type>Data`.
pub(crate) fn add_to(document: &mut OpenApi) {
    let parsed: serde_json::Result<BTreeMap<String, RefOr<Schema>>> = serde_json::from_str(SCHEMAS);
    let Ok(schemas) = parsed else {
        tracing::error!("the schemas of events cannot be read");
        return;
    };
    let components = document.components.get_or_insert_default();
    for (kind, schema) in schemas {
        components.schemas.insert(format!("{kind}Data"), schema);
    }
}
