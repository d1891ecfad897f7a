//! Tests of presence by advisories, by complete and incomplete lists, and by silence.

use muster_schemas::{DeviceId, ProjectId};
use uuid::Uuid;

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn device(n: u128) -> ProjectDevice {
    (ProjectId::default_project(), DeviceId(Uuid::from_u128(n)))
}

fn connection(id: &str, n: u128) -> Connection {
    Connection { id: id.into(), device: device(n), address: None }
}

fn opened(id: &str, n: u128) -> Advisory {
    Advisory::Opened(connection(id, n))
}

fn closed(id: &str) -> Advisory {
    Advisory::Closed { id: id.into(), reason: DisconnectReason::Closed, detail: None }
}

/// Returns the changes: the device, and `+` or the reason.
fn changes_of(changes: impl IntoIterator<Item = Change>) -> Vec<(u128, &'static str)> {
    let word = |event: &Event| match event {
        Event::DeviceConnected(_) => "+",
        Event::DeviceDisconnected(disconnected) => match disconnected.reason {
            DisconnectReason::Closed => "closed",
            DisconnectReason::Silent => "silent",
            DisconnectReason::Gone => "gone",
        },
        _ => "?",
    };
    let mut reported: Vec<_> = changes
        .into_iter()
        .map(|change| (change.device.1.0.as_u128(), word(&change.event)))
        .collect();
    reported.sort_unstable();
    reported
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

/// Returns a complete list of server `s` at a second; entries are id, device, last activity, round
/// trip.
fn list_at(now: i64, entries: &[(&str, u128, i64, &str)]) -> Sweep {
    let listed = entries.iter().map(|(id, n, active, rtt)| {
        let connection = connection(id, *n);
        (at(now), ListedConnection { connection, active_at: at(*active), rtt: (*rtt).to_owned() })
    });
    Sweep {
        listed: listed.collect(),
        complete: ["s".to_owned()].into(),
        lost_servers: HashSet::new(),
        is_complete: true,
    }
}

fn list(entries: &[(&str, u128)]) -> Sweep {
    let entries: Vec<_> = entries.iter().map(|(id, n)| (*id, *n, 0, "1µs")).collect();
    list_at(0, &entries)
}

#[test]
fn a_device_is_online_while_it_has_any_connection() {
    let mut table = Table::new(LIMIT, []);
    assert_eq!(changes_of(table.apply_advisory(opened("s/1", 1))), [(1, "+")]);
    assert_eq!(changes_of(table.apply_advisory(opened("s/2", 1))), []);
    assert_eq!(changes_of(table.apply_advisory(closed("s/1"))), []);
    assert_eq!(changes_of(table.apply_advisory(closed("s/1"))), []);
    assert_eq!(changes_of(table.apply_advisory(closed("s/2"))), [(1, "closed")]);
}

#[test]
fn two_lists_must_agree_before_a_device_is_offline() {
    let mut table = Table::new(LIMIT, [device(1), device(2)]);
    // 1 is still connected; 2 disconnected and 3 connected while no process tracked presence.
    let now = [("s/1", 1), ("s/3", 3)];
    assert_eq!(changes_of(table.finish_sweep(list(&now))), [(3, "+")]);
    assert!(table.needs_requery());
    assert_eq!(changes_of(table.finish_sweep(list(&now))), [(2, "gone")]);
    assert!(!table.needs_requery());
    // 3 reconnected unnoticed: it was online all the time, as far as the table can determine.
    let now = [("s/1", 1), ("s/4", 3)];
    assert_eq!(changes_of(table.finish_sweep(list(&now))), []);
    assert_eq!(changes_of(table.finish_sweep(list(&now))), []);
    // A single list without a device may be wrong.
    assert_eq!(changes_of(table.finish_sweep(list(&[("s/1", 1)]))), []);
    assert_eq!(changes_of(table.finish_sweep(list(&now))), []);
    assert_eq!(changes_of(table.finish_sweep(list(&[]))), []);
    assert_eq!(changes_of(table.finish_sweep(list(&[]))), [(1, "gone"), (3, "gone")]);
    assert_eq!(changes_of(table.finish_sweep(list(&[]))), []);
}

#[test]
fn an_incomplete_list_sets_no_device_offline() {
    let mut table = Table::new(LIMIT, [device(9)]);
    table.apply_advisory(opened("s/1", 1));
    table.apply_advisory(opened("t/2", 2));
    for _ in 0..5 {
        // A page of s is missing, and t does not respond.
        let sweep = Sweep { complete: HashSet::new(), is_complete: false, ..list(&[]) };
        assert_eq!(changes_of(table.finish_sweep(sweep)), []);
    }
    // The list of s is complete now; devices on t, and unknown ones, are unaffected.
    for expected in [vec![], vec![(1, "gone")], vec![], vec![]] {
        assert_eq!(
            changes_of(table.finish_sweep(Sweep { is_complete: false, ..list(&[]) })),
            expected
        );
    }
    let lost = Sweep { lost_servers: ["t".to_owned()].into(), ..list(&[]) };
    assert_eq!(changes_of(table.finish_sweep(lost)), [(2, "gone")]);
    assert_eq!(changes_of(table.finish_sweep(list(&[]))), [(9, "gone")]);
}

#[test]
fn a_list_does_not_override_advisories_received_during_its_query() {
    let mut table = Table::new(LIMIT, []);
    table.apply_advisory(opened("s/1", 1));
    table.apply_advisory(opened("s/2", 2));
    for _ in 0..3 {
        table.start_sweep();
        assert_eq!(changes_of(table.apply_advisory(closed("s/1"))), [(1, "closed")]);
        assert_eq!(changes_of(table.apply_advisory(opened("s/3", 3))), [(3, "+")]);
        // The list is older than the advisories: it has 1, and does not have 3 yet.
        assert_eq!(changes_of(table.finish_sweep(list(&[("s/1", 1), ("s/2", 2)]))), []);
        assert!(!table.needs_requery());
        table.apply_advisory(closed("s/3"));
        table.apply_advisory(opened("s/1", 1));
    }
    // A failed sweep has no effect.
    table.start_sweep();
    table.apply_advisory(closed("s/1"));
    table.fail_sweep();
    assert_eq!(changes_of(table.finish_sweep(list(&[("s/1", 1), ("s/2", 2)]))), [(1, "+")]);
}

#[test]
fn a_connection_without_activity_is_silent_until_it_sends_something() {
    let mut table = Table::new(LIMIT, []);
    table.apply_advisory(opened("s/1", 1));
    let mut swept = |now, active, rtt: &str| {
        changes_of(table.finish_sweep(list_at(now, &[("s/1", 1, active, rtt)])))
    };
    assert_eq!(swept(10, 0, ""), []);
    assert_eq!(swept(60, 0, ""), []);
    assert_eq!(swept(61, 0, ""), [(1, "silent")]);
    assert_eq!(swept(90, 0, ""), []);
    assert_eq!(swept(95, 94, ""), [(1, "+")]);
    // It sends nothing, but responds to the broker's pings.
    assert_eq!(swept(150, 94, "5µs"), []);
    assert_eq!(swept(200, 94, "5µs"), []);
    assert_eq!(swept(210, 94, "6µs"), []);
    assert_eq!(swept(270, 94, "6µs"), []);
    assert_eq!(swept(271, 94, "6µs"), [(1, "silent")]);
    // It reconnects; later the old connection is closed.
    assert_eq!(changes_of(table.apply_advisory(opened("s/2", 1))), [(1, "+")]);
    assert_eq!(changes_of(table.apply_advisory(closed("s/1"))), []);
    assert_eq!(changes_of(table.apply_advisory(closed("s/2"))), [(1, "closed")]);
}

#[test]
fn another_active_connection_keeps_a_device_online() {
    let mut table = Table::new(LIMIT, []);
    table.apply_advisory(opened("s/1", 1));
    let both = |now| list_at(now, &[("s/1", 1, 0, ""), ("s/2", 1, now, "")]);
    assert_eq!(changes_of(table.finish_sweep(both(70))), []);
    // The active connection is closed: the remaining one is silent.
    assert_eq!(changes_of(table.apply_advisory(closed("s/2"))), [(1, "closed")]);
}

#[test]
fn a_new_tracker_trusts_the_log_about_silent_connections_until_it_has_observed_them() {
    let mut table = Table::new(LIMIT, [device(1)]);
    let mut swept = |now| {
        changes_of(table.finish_sweep(list_at(now, &[("s/1", 1, 0, "5µs"), ("s/2", 2, 0, "7µs")])))
    };
    assert_eq!(swept(1000), []);
    assert_eq!(swept(1060), []);
    assert_eq!(swept(1061), [(1, "silent")]);
    assert_eq!(changes_of(table.finish_sweep(list_at(1070, &[("s/2", 2, 0, "8µs")]))), [(2, "+")]);
}

#[test]
fn connections_of_a_broker_killed_before_its_first_list_are_closed() {
    let mut table = Table::new(LIMIT, []);
    assert_eq!(changes_of(table.apply_advisory(opened("old/1", 1))), [(1, "+")]);
    // Only its successor responds, with two complete lists.
    table.start_sweep();
    assert_eq!(changes_of(table.finish_sweep(list(&[]))), []);
    table.start_sweep();
    assert_eq!(changes_of(table.finish_sweep(list(&[]))), [(1, "gone")]);
}
