//! Links of the OpenAPI document: the responses that contain the ids and cursors which other
//! operations need. Tools that test the API or build workflows follow them.

use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, RefOr};

/// An operation, the status of the response, the operation that it leads to, and where each of its
/// parameters is.
type Link = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const CREATED_DEVICE: &[(&str, &str)] = &[("device", "$response.body#/id")];
const LISTED_DEVICE: &[(&str, &str)] = &[("device", "$response.body#/items/0/id")];
const CREATED_OPERATION: &[(&str, &str)] = &[("operation", "$response.body#/id")];
const LISTED_OPERATION: &[(&str, &str)] = &[("operation", "$response.body#/items/0/id")];
const LISTED_RUN: &[(&str, &str)] =
    &[("operation", "$request.path.operation"), ("device", "$response.body#/items/0/device/id")];
const LISTED_UPLOAD: &[(&str, &str)] = &[
    ("operation", "$response.body#/items/0/operation"),
    ("device", "$response.body#/items/0/device/id"),
];
const CREATED_TOKEN: &[(&str, &str)] = &[("token", "$response.body#/id")];
const LISTED_TOKEN: &[(&str, &str)] = &[("token", "$response.body#/items/0/id")];
const CREATED_PROJECT: &[(&str, &str)] = &[("project", "$response.body#/id")];
const LISTED_PROJECT: &[(&str, &str)] = &[("project", "$response.body#/items/0/id")];
const LISTED_SESSION: &[(&str, &str)] = &[("session", "$response.body#/items/0/id")];
const LISTED_EVENT: &[(&str, &str)] = &[("position", "$response.body#/items/0/position")];
const LISTED_DEAD_LETTER: &[(&str, &str)] = &[("id", "$response.body#/items/0/id")];
const NEXT: &[(&str, &str)] = &[("cursor", "$response.body#/next")];
const NEXT_RUNS: &[(&str, &str)] =
    &[("operation", "$request.path.operation"), ("cursor", "$response.body#/next")];
const NEXT_DEVICE_EVENTS: &[(&str, &str)] =
    &[("device", "$request.path.device"), ("cursor", "$response.body#/next")];

const LINKS: &[Link] = &[
    ("register_device", "201", "get_device", CREATED_DEVICE),
    ("register_device", "201", "change_device", CREATED_DEVICE),
    ("register_device", "201", "set_device_config", CREATED_DEVICE),
    ("register_device", "201", "list_device_events", CREATED_DEVICE),
    ("list_devices", "200", "get_device", LISTED_DEVICE),
    ("list_devices", "200", "get_latest_metrics", LISTED_DEVICE),
    ("list_devices", "200", "list_devices", NEXT),
    ("list_device_events", "200", "list_device_events", NEXT_DEVICE_EVENTS),
    ("request_operation", "201", "get_operation", CREATED_OPERATION),
    ("request_operation", "201", "list_runs", CREATED_OPERATION),
    ("request_operation", "201", "pause_operation", CREATED_OPERATION),
    ("request_operation", "201", "resume_operation", CREATED_OPERATION),
    ("request_operation", "201", "abort_operation", CREATED_OPERATION),
    ("list_operations", "200", "get_operation", LISTED_OPERATION),
    ("list_operations", "200", "list_runs", LISTED_OPERATION),
    ("list_operations", "200", "list_operations", NEXT),
    ("list_runs", "200", "get_run", LISTED_RUN),
    ("list_runs", "200", "get_run_output", LISTED_RUN),
    ("list_runs", "200", "cancel_run", LISTED_RUN),
    ("list_runs", "200", "list_runs", NEXT_RUNS),
    ("list_uploads", "200", "get_upload", LISTED_UPLOAD),
    ("list_uploads", "200", "get_upload_content", LISTED_UPLOAD),
    ("list_uploads", "200", "create_download_link", LISTED_UPLOAD),
    ("list_uploads", "200", "list_uploads", NEXT),
    ("create_enrollment_token", "201", "get_enrollment_token", CREATED_TOKEN),
    ("create_enrollment_token", "201", "revoke_enrollment_token", CREATED_TOKEN),
    ("list_enrollment_tokens", "200", "get_enrollment_token", LISTED_TOKEN),
    ("list_enrollment_tokens", "200", "list_enrollment_tokens", NEXT),
    ("create_token", "201", "revoke_token", CREATED_TOKEN),
    ("list_api_tokens", "200", "list_api_tokens", NEXT),
    ("create_project", "201", "get_project", CREATED_PROJECT),
    ("create_project", "201", "change_project", CREATED_PROJECT),
    ("list_projects", "200", "get_project", LISTED_PROJECT),
    ("list_projects", "200", "list_projects", NEXT),
    ("list_sessions", "200", "get_session", LISTED_SESSION),
    ("list_sessions", "200", "list_sessions", NEXT),
    ("list_events", "200", "get_event", LISTED_EVENT),
    ("list_events", "200", "list_events", NEXT),
    ("list_dead_letters", "200", "get_dead_letter", LISTED_DEAD_LETTER),
    ("list_dead_letters", "200", "list_dead_letters", NEXT),
];

/// Adds the links to the document.
pub(super) fn add(document: &mut OpenApi) {
    for (from, status, to, parameters) in LINKS {
        let operations = document.paths.paths.values_mut().flat_map(|item| {
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        });
        let is_source =
            |operation: &&mut Operation| operation.operation_id.as_deref() == Some(from);
        let Some(operation) = operations.flatten().find(is_source) else { continue };
        let response = operation.responses.responses.get_mut(*status);
        if let Some(RefOr::T(response)) = response {
            let mut link = LinkBuilder::new().operation_id(*to);
            for (name, location) in *parameters {
                link = link.parameter(*name, *location);
            }
            response.links.insert((*to).to_owned(), RefOr::T(link.build()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// Every link is in the document, leads to an operation, and names parameters of it.
    #[test]
    fn links_lead_to_operations_with_their_parameters() {
        let document = serde_json::to_value(crate::openapi_document()).unwrap();
        let operations: Vec<&Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|item| item.as_object().unwrap().values())
            .collect();
        let find = |id: &str| operations.iter().find(|it| it["operationId"] == id).unwrap();
        for (from, status, to, parameters) in LINKS {
            let link = &find(from)["responses"][status]["links"][to];
            assert_eq!(link["operationId"], *to, "{from}");
            let target = find(to)["parameters"].as_array().unwrap();
            let names: BTreeSet<&str> =
                target.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
            for (name, _) in *parameters {
                assert!(names.contains(name), "{from} → {to}: {name}");
                assert!(link["parameters"][name].is_string(), "{from} → {to}: {name}");
            }
        }
    }
}
