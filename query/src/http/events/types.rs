//! The types of events that a request selects and may read.

use muster_api::Problem;
use muster_api::auth::{Permission, Principal};
use muster_api::problem::Kind;
use muster_schemas::Event;

use crate::point_in_time::{device_kinds, is_about_tokens};

/// Returns the types to read for a `type` parameter; empty for all types. Events about tokens
/// require the role of an admin or auditor.
pub(super) fn requested_types(
    types: Option<&str>,
    principal: &Principal,
) -> Result<Vec<String>, Problem> {
    let sees_all = principal.has_permission(Permission::ReadAll);
    let Some(types) = types else {
        return Ok(if sees_all { Vec::new() } else { device_kinds() });
    };
    let mut requested = Vec::new();
    for word in types.split(',').map(str::trim) {
        if !Event::TYPES.iter().any(|(kind, _)| *kind == word) {
            let rule = "is not a list of event types, such as DeviceConnected,DeviceDisconnected";
            return Err(Problem::parameter("type", rule, Some(word.into())));
        }
        if is_about_tokens(word) && !sees_all {
            return Err(Problem::new(
                Kind::Forbidden,
                format!("events of type {word} are for admins and auditors"),
            ));
        }
        requested.push(word.to_owned());
    }
    Ok(requested)
}
