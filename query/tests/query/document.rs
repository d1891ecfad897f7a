//! The OpenAPI document: every operation has an example, and documents its problems and the token
//! that it requires.

use serde_json::Value;

use crate::support::{ExtraServers, World};

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_completely_described() {
    let world = World::new(ExtraServers::default()).await;
    let (_, document) = world.query.router().split_for_parts();
    let document: Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 37, "{:?}", paths.keys());
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            assert!(operation["summary"].is_string(), "{what} has no summary");
            let content = operation["responses"]["200"]["content"].as_object().unwrap();
            let example = content.values().next().unwrap();
            assert!(!example["example"].is_null(), "{what} has no example");
            // A download link is its own credential.
            if path.starts_with("/api/") && !path.starts_with("/api/v1/downloads/") {
                assert!(operation["security"][0]["bearer"].is_array(), "{what}");
                for status in ["400", "401", "403", "404", "500", "503"] {
                    let problem = &operation["responses"][status]["content"];
                    assert!(problem["application/problem+json"].is_object(), "{what}: {status}");
                }
            }
        }
    }
    // Every reference exists.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} is not there");
    }
}
