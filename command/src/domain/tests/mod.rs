//! Tests of the deciders: given these events, when this command is decided, then these events follow,
//! or this rejection.

mod device;
mod operation;
mod run;
mod token;

use muster_schemas::events::{
    DeviceNameReleased, DeviceNameReserved, ProjectArchived, ProjectCreated, ProjectRenamed,
    ProjectRestored, ProjectRetentionSet,
};
use muster_schemas::{DeviceId, Event, Hash, Retention};
use uuid::Uuid;

use super::name::{Name, NameCommand};
use super::project::{Project, ProjectCommand};
use super::*;

const NOTHING: &[Event] = &[];

fn device(n: u128) -> DeviceId {
    DeviceId(Uuid::from_u128(n))
}

fn hash(seed: u8) -> Hash {
    Hash([seed; 32])
}

/// The state after these events.
fn given<D: Decider>(events: impl IntoIterator<Item = Event>) -> D {
    D::fold(&events.into_iter().collect::<Vec<_>>())
}

/// Decides a command after these events.
fn when<D: Decider>(events: impl IntoIterator<Item = Event>, command: D::Command) -> Decision {
    given::<D>(events).decide(command)
}

/// Asserts that a decision has these events, and that it changes nothing when it is repeated.
fn assert_decides_once<D: Decider>(events: &[Event], command: &D::Command, then: &[Event])
where
    D::Command: Clone,
{
    assert_eq!(when::<D>(events.to_vec(), command.clone()), Ok(then.to_vec()));
    let all = [events, then].concat();
    assert_eq!(when::<D>(all, command.clone()), Ok(NOTHING.to_vec()));
}

fn conflict(conflict: Conflict) -> Decision {
    Err(conflict.into())
}

fn not_found(what: &'static str) -> Decision {
    Err(Rejection::NotFound(what))
}

/// The rejected field and its value.
fn invalid(decision: Decision) -> (&'static str, String) {
    match decision {
        Err(Rejection::Invalid { field, value, .. }) => (field, value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_has_one_holder() {
    let reserved = |n| Event::from(DeviceNameReserved { device: device(n) });
    let released = || Event::from(DeviceNameReleased { device: device(1) });
    let held = [reserved(1)];
    assert_decides_once::<Name>(&[], &NameCommand::Reserve(device(1)), &held);
    assert_eq!(
        when::<Name>(held.clone(), NameCommand::Reserve(device(2))),
        conflict(Conflict::NameInUse(device(1)))
    );
    assert_eq!(when::<Name>(held.clone(), NameCommand::Release(device(2))), Ok(vec![]));
    assert_decides_once::<Name>(&held, &NameCommand::Release(device(1)), &[released()]);
    let free = [reserved(1), released()];
    assert_decides_once::<Name>(&free, &NameCommand::Reserve(device(2)), &[reserved(2)]);
}

#[test]
fn a_project_is_created_once_and_changed() {
    let create = |retention| ProjectCommand::Create { title: "A".parse().unwrap(), retention };
    let created = || Event::from(ProjectCreated { title: "A".parse().unwrap() });
    let keep = |retention| ProjectCommand::Change {
        title: None,
        archived: None,
        retention: Some(retention),
    };
    let archive = |archived| ProjectCommand::Change {
        title: None,
        archived: Some(archived),
        retention: None,
    };
    let (default, month) = (Retention::Default, Retention::Days(30));
    let retained = |retention, previous| Event::from(ProjectRetentionSet { retention, previous });

    assert_eq!(when::<Project>([], keep(month)), not_found("project"));
    assert_eq!(when::<Project>([], create(default)), Ok(vec![created()]));
    assert_eq!(when::<Project>([], create(month)), Ok(vec![created(), retained(month, default)]));
    assert_eq!(
        when::<Project>([created()], create(default)),
        conflict(Conflict::ProjectExists("A".parse().unwrap()))
    );
    assert_decides_once::<Project>(&[created()], &keep(month), &[retained(month, default)]);
    let kept = [created(), retained(month, default)];
    assert_decides_once::<Project>(&kept, &keep(default), &[retained(default, month)]);
    assert_decides_once::<Project>(&[created()], &archive(true), &[ProjectArchived {}.into()]);
    let archived = [created(), ProjectArchived {}.into()];
    assert_decides_once::<Project>(&archived, &archive(false), &[ProjectRestored {}.into()]);

    let all = ProjectCommand::Change {
        title: Some("B".parse().unwrap()),
        archived: Some(true),
        retention: Some(month),
    };
    let renamed =
        ProjectRenamed { title: "B".parse().unwrap(), previous: "A".parse().unwrap() }.into();
    let then = [renamed, ProjectArchived {}.into(), retained(month, default)];
    assert_decides_once::<Project>(&[created()], &all, &then);
}
