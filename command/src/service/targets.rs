//! Target devices of an operation: named, or selected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_schemas::cose::{self, Kind};
use muster_schemas::events::RequestedTarget;
use muster_schemas::names::DeviceName;
use muster_schemas::wire::internal::{
    FindTargets, TARGETS_SUBJECT, TargetScope, Targets, TargetsAnswer, WithoutFreshValue,
};
use muster_schemas::{DeviceId, Hash, ProjectId, StreamName, codec};
use uuid::Uuid;

use crate::domain::Rejection;
use crate::domain::device::Device;
use crate::domain::name::Name;
use crate::error::CommandError;
use crate::executor::Executor;
use crate::keys::KeyStore;

/// Maximum number of devices of one operation.
const MAX_DEVICES: usize = 20_000;

/// Target devices of an operation.
#[derive(Clone, Debug)]
pub enum Target {
    /// Devices with these names or ids.
    Devices(Vec<String>),
    /// Devices that a selector selects.
    Selector(String),
}

impl From<Target> for RequestedTarget {
    fn from(target: Target) -> Self {
        match target {
            Target::Devices(devices) => Self::Devices(devices),
            Target::Selector(selector) => Self::Selector(selector),
        }
    }
}

/// Devices that a target resolves to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvedTarget {
    /// The devices; all of them exist.
    pub(super) devices: BTreeSet<DeviceId>,
    /// Metrics of the selector of which devices had no fresh value.
    pub(super) without_fresh_value: Vec<WithoutFreshValue>,
}

/// Resolves targets of operations to devices.
#[derive(Clone, Debug)]
pub struct TargetResolver {
    executor: Executor,
    keys: Arc<KeyStore>,
    /// Connection to the servers' account.
    nats: async_nats::Client,
}

impl TargetResolver {
    pub(super) const fn new(
        executor: Executor,
        keys: Arc<KeyStore>,
        nats: async_nats::Client,
    ) -> Self {
        Self { executor, keys, nats }
    }

    /// Resolves the target devices, which must be enrolled.
    pub(super) async fn resolve(
        &self,
        project: &ProjectId,
        target: &Target,
    ) -> Result<ResolvedTarget, CommandError> {
        self.resolve_scope(project, target, TargetScope::Enrolled).await
    }

    /// Resolves the target devices, enrolled or not.
    pub(super) async fn resolve_all(
        &self,
        project: &ProjectId,
        target: &Target,
    ) -> Result<ResolvedTarget, CommandError> {
        self.resolve_scope(project, target, TargetScope::All).await
    }

    async fn resolve_scope(
        &self,
        project: &ProjectId,
        target: &Target,
        scope: TargetScope,
    ) -> Result<ResolvedTarget, CommandError> {
        match target {
            Target::Selector(selector) => self.resolve_selector(project, selector, scope).await,
            Target::Devices(devices) => {
                let devices = self.resolve_named(project, devices, scope).await?;
                Ok(ResolvedTarget { devices, without_fresh_value: Vec::new() })
            }
        }
    }

    /// Resolves devices by id or name, with one query for up to 100 names, and one for their devices.
    async fn resolve_named(
        &self,
        project: &ProjectId,
        devices: &[String],
        scope: TargetScope,
    ) -> Result<BTreeSet<DeviceId>, CommandError> {
        let references = || devices.iter().filter_map(|text| DeviceReference::parse(text));
        let names = references().filter_map(DeviceReference::name_stream).collect();
        let names = self.executor.load_all(project, names).await?;
        let ids = references().filter_map(|reference| reference.id(&names));
        let states = self.executor.load_all(project, ids.map(StreamName::Device).collect()).await?;
        Ok(check_named(devices, &names, &states, scope)?)
    }

    /// Resolves a selector by the query role, which knows labels, presence and the newest metrics.
    async fn resolve_selector(
        &self,
        project: &ProjectId,
        selector: &str,
        scope: TargetScope,
    ) -> Result<ResolvedTarget, CommandError> {
        let ResolvedTarget { mut devices, mut without_fresh_value } = ResolvedTarget::default();
        loop {
            let question = FindTargets {
                project: project.clone(),
                selector: selector.to_owned(),
                scope,
                after: devices.last().copied(),
                nonce: Uuid::new_v4(),
            };
            let question = codec::encode(&question);
            let hash = Hash::of(&question);
            let response = self.nats.request(TARGETS_SUBJECT, question.into()).await;
            let response = response.map_err(|error| {
                CommandError::Query(format!("the query role does not respond: {error}"))
            })?;
            let not_its_own = |problem: &dyn std::fmt::Display| {
                CommandError::Query(format!(
                    "the response is not from the query role ({problem}); does it run this \
                     release, with keys of this `muster bootstrap`?"
                ))
            };
            let key = self.keys.query_key().public();
            let response = cose::open(&response.payload, Kind::Targets, &key)
                .map_err(|error| not_its_own(&error))?;
            let response: TargetsAnswer =
                codec::decode(&response).map_err(|error| not_its_own(&error))?;
            if response.question != hash {
                return Err(not_its_own(&"it is for another request"));
            }
            let invalid = |rule: String| Rejection::Invalid {
                field: "target.selector",
                rule,
                value: selector.chars().take(200).collect(),
            };
            match response.targets {
                Targets::Refused(why) => return Err(invalid(why).into()),
                Targets::Unavailable(why) => return Err(CommandError::Query(why)),
                Targets::Found { devices: found, more, without_fresh_value: without } => {
                    let is_more = more && !found.is_empty();
                    devices.extend(found);
                    without_fresh_value.extend(without);
                    if devices.len() > MAX_DEVICES {
                        let rule = format!("selects more than {MAX_DEVICES} devices");
                        return Err(invalid(rule).into());
                    }
                    if !is_more {
                        check_selected(&devices, &without_fresh_value).map_err(invalid)?;
                        return Ok(ResolvedTarget { devices, without_fresh_value });
                    }
                }
            }
        }
    }
}

/// A device as an operator refers to it.
enum DeviceReference {
    Id(DeviceId),
    Name(DeviceName),
}

impl DeviceReference {
    /// Parses an id or a name; `None` if it is neither.
    fn parse(text: &str) -> Option<Self> {
        text.parse().map(Self::Id).or_else(|_| text.parse().map(Self::Name)).ok()
    }

    /// Returns the stream that has the device's id; `None` if this is the id.
    fn name_stream(self) -> Option<StreamName> {
        match self {
            Self::Id(_) => None,
            Self::Name(name) => Some(StreamName::Name(name)),
        }
    }

    /// Returns the device's id; `None` if no device has this name.
    fn id(self, names: &HashMap<StreamName, Name>) -> Option<DeviceId> {
        match self {
            Self::Id(id) => Some(id),
            Self::Name(name) => names.get(&StreamName::Name(name))?.holder,
        }
    }
}

/// Refuses a selection that is empty only because values are missing; every other empty selection is
/// refused with the operation.
fn check_selected(
    devices: &BTreeSet<DeviceId>,
    without_fresh_value: &[WithoutFreshValue],
) -> Result<(), String> {
    match without_fresh_value.first() {
        Some(WithoutFreshValue { metric, device_count, candidate_count }) if devices.is_empty() => {
            Err(format!(
                "selects no device; {device_count} of {candidate_count} devices had no fresh value \
                 of {metric}"
            ))
        }
        _ => Ok(()),
    }
}

/// Returns the ids of named devices, or the rejection of all that are missing, or else of the first
/// one that is not enrolled, if all must be.
fn check_named(
    devices: &[String],
    names: &HashMap<StreamName, Name>,
    states: &HashMap<StreamName, Device>,
    scope: TargetScope,
) -> Result<BTreeSet<DeviceId>, Rejection> {
    let mut found = BTreeMap::new();
    let mut missing = Vec::new();
    for text in devices {
        let id = DeviceReference::parse(text).and_then(|reference| reference.id(names));
        let state = id.and_then(|id| Some((id, states.get(&StreamName::Device(id))?)));
        match state.filter(|(_, device)| device.exists()) {
            Some((id, device)) => drop(found.insert(id, device)),
            None => missing.push(text.chars().take(80).collect::<String>()),
        }
    }
    if !missing.is_empty() {
        let (noun, value) =
            (if missing.len() == 1 { "device" } else { "devices" }, missing.join(","));
        return Err(Rejection::Invalid {
            field: "target.devices",
            rule: format!("there is no {noun} '{}'", missing.join("', '")),
            value,
        });
    }
    if scope == TargetScope::Enrolled {
        found.values().try_for_each(|device| device.check_enrolled())?;
    }
    Ok(found.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_schemas::Epoch;

    /// Devices with the ids 1, 2, …; all but the last two are enrolled, the last one is deleted.
    fn fleet(names: &[&str]) -> (HashMap<StreamName, Name>, HashMap<StreamName, Device>) {
        let unenrolled = names.len() - 2;
        let ids = (1..).map(id);
        let holders = names
            .iter()
            .zip(ids.clone())
            .map(|(name, id)| (StreamName::Name(name.parse().unwrap()), Name { holder: Some(id) }));
        let states = names.iter().zip(ids).enumerate().map(|(n, (name, id))| {
            let device = Device {
                name: Some(name.parse().unwrap()),
                epoch: Epoch(u64::from(n < unenrolled)),
                is_deleted: n > unenrolled,
                ..Device::default()
            };
            (StreamName::Device(id), device)
        });
        (holders.collect(), states.collect())
    }

    fn id(n: u128) -> DeviceId {
        DeviceId(Uuid::from_u128(n))
    }

    fn check(devices: &[&str]) -> Result<BTreeSet<DeviceId>, Rejection> {
        let (mut names, states) = fleet(&["robot", "crane", "new", "deleted"]);
        names.insert(StreamName::Name("free".parse().unwrap()), Name { holder: None });
        let devices: Vec<String> = devices.iter().map(|&text| text.to_owned()).collect();
        check_named(&devices, &names, &states, TargetScope::Enrolled)
    }

    #[test]
    fn devices_are_named_by_name_or_id() {
        let crane = id(2).to_string();
        assert_eq!(check(&["robot", &crane, "robot", "crane"]), Ok([id(1), id(2)].into()));
        assert_eq!(check(&[]), Ok(BTreeSet::new()));
    }

    #[test]
    fn an_empty_selection_names_the_missing_values() {
        let without = WithoutFreshValue {
            metric: "mem.available".to_owned(),
            device_count: 3,
            candidate_count: 40,
        };
        let refused = check_selected(&BTreeSet::new(), std::slice::from_ref(&without));
        assert!(refused.is_err_and(|why| why.contains("3 of 40")));
        assert_eq!(check_selected(&[id(1)].into(), &[without]), Ok(()));
        assert_eq!(check_selected(&BTreeSet::new(), &[]), Ok(()));
    }

    #[test]
    fn all_missing_devices_are_rejected_and_then_the_first_unenrolled_one() {
        let unknown = id(9).to_string();
        let deleted = id(4).to_string();
        for missing in ["unknown", "free", "deleted", "not a name", "", &unknown, &deleted] {
            let rejected = check(&["robot", missing, "new"]);
            assert!(
                matches!(
                    &rejected,
                    Err(Rejection::Invalid { field: "target.devices", value, .. })
                        if value == missing
                ),
                "{missing}: {rejected:?}"
            );
            let rejected = check(&["other", "robot", "new", missing]);
            assert!(
                matches!(
                    &rejected,
                    Err(Rejection::Invalid { value, .. }) if *value == format!("other,{missing}")
                ),
                "{missing}: {rejected:?}"
            );
        }
        let rejected = check(&["robot", "new"]);
        assert!(matches!(rejected, Err(Rejection::Conflict(_))), "{rejected:?}");
    }
}
