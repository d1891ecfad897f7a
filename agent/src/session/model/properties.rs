//! Properties that must hold at the end of every sequence of steps.

use std::path::Path;

use muster_schemas::events::LossCause;
use muster_schemas::{Epoch, Event, Seq};
use proptest::prelude::*;

use super::device::Device;
use super::server::Entry;
use super::world::{Step, World, steps};
use crate::outbox::Limits;

fn limits(unconfirmed_bytes: u64, kept_bytes: u64) -> Limits {
    Limits { unconfirmed_bytes, kept_bytes, ..Limits::default() }
}

fn is_subsequence(part: &[u64], whole: &[u64]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|expected| rest.any(|found| found == expected))
}

/// Returns a device that has pruned its first `confirmed` events, which the log has received.
fn after_pruning(dir: &Path, world: &mut World, confirmed: u64) -> Device {
    let mut device = Device::new(dir, limits(1 << 20, 0));
    for _ in 0..confirmed {
        device = world.step(device, &Step::Record(1));
    }
    let mut devices = [device];
    world.run_until_synced(&mut devices);
    let [device] = devices;
    world.step(device, &Step::Prune)
}

#[test]
fn events_lost_on_both_sides_are_declared_and_the_rest_continues_in_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let mut device = after_pruning(dir.path(), &mut world, 10);
    for _ in 0..3 {
        device = world.step(device, &Step::Record(1));
    }
    // A backup from when the log had four events.
    world.server.log.truncate(1 + 4);
    let mut devices = [device];
    world.run_until_synced(&mut devices);
    assert_eq!(world.server.event_numbers(), [1, 2, 3, 4, 11, 12, 13]);
    let lost = world.server.log.iter().find_map(|entry| match entry {
        Entry::Event { epoch, seq, event, .. } => match &**event {
            Event::DeviceHistoryLost(lost) => Some((*epoch, *seq, lost.clone())),
            _ => None,
        },
        Entry::Grant { .. } => None,
    });
    let (epoch, seq, lost) = lost.unwrap();
    assert_eq!((epoch, seq, lost.epoch, lost.count), (Epoch(2), Seq(1), Epoch(1), Some(6)));
    assert_eq!((lost.first_seq, lost.last_seq), (Some(Seq(5)), Some(Seq(10))));
}

#[test]
fn a_log_that_still_reads_its_stream_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let mut device = after_pruning(dir.path(), &mut world, 10);
    let unread = world.server.log.split_off(1 + 4);
    world.server.is_caught_up = Some(false);
    device.session.connected(world.now);
    for _ in 0..100 {
        device = world.step(device, &Step::Hello { is_lost: false });
        device = world.step(device, &Step::Wait);
    }
    assert_eq!(device.outbox.view().epoch, Epoch::FIRST);
    world.server.log.extend(unread);
    world.server.is_caught_up = Some(true);
    let mut devices = [device];
    world.run_until_synced(&mut devices);
    assert_eq!(
        (devices[0].outbox.view().epoch, world.server.lost(LossCause::Pruned)),
        (Epoch(1), 0)
    );
}

#[test]
fn a_loss_is_declared_immediately_when_the_log_has_read_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let mut device = after_pruning(dir.path(), &mut world, 10);
    world.server.log.truncate(1 + 4);
    world.server.is_caught_up = Some(true);
    device.session.connected(world.now);
    for _ in 0..2 {
        device = world.step(device, &Step::Hello { is_lost: false });
    }
    assert_eq!(device.outbox.view().epoch, Epoch(2));
}

#[test]
fn a_log_that_lost_the_epoch_gets_all_events_that_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let mut device = after_pruning(dir.path(), &mut world, 6);
    world.server.log.truncate(1 + 2);
    let mut devices = [device];
    world.run_until_synced(&mut devices);
    [device] = devices;
    for _ in 0..4 {
        device = world.step(device, &Step::Record(1));
    }
    let mut devices = [device];
    world.run_until_synced(&mut devices);
    assert_eq!(devices[0].outbox.view().epoch, Epoch(2));
    // A backup from before the second epoch, when the log had one event.
    world.server.log.truncate(1 + 1);
    world.run_until_synced(&mut devices);
    assert_eq!(devices[0].outbox.view().epoch, Epoch(3));
    // Event 2 was pruned earlier; the declaration in epoch 2 names 3 to 6 and is sent again.
    assert_eq!(world.server.event_numbers(), [1, 7, 8, 9, 10]);
    assert_eq!(world.server.lost(LossCause::Pruned), 1 + 4);
}

#[test]
fn unreadable_events_are_declared_lost_and_the_rest_continues() {
    // Which of ten events are damaged or deleted, and which of them the log had received.
    for (damaged, removed, had, reported, lost) in [
        (&[6][..], &[][..], 5, &[1, 2, 3, 4, 5, 7, 8, 9, 10][..], 1),
        (&[7, 8], &[], 5, &[1, 2, 3, 4, 5, 6, 9, 10], 2),
        (&[], &[7], 5, &[1, 2, 3, 4, 5, 6, 8, 9, 10], 1),
        (&[6, 8], &[7], 5, &[1, 2, 3, 4, 5, 9, 10], 3),
        (&[9, 10], &[], 5, &[1, 2, 3, 4, 5, 6, 7, 8], 2),
        (&[8], &[9, 10], 5, &[1, 2, 3, 4, 5, 6, 7], 3),
        // The log has the damaged event, so nothing is lost.
        (&[3], &[], 5, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0),
        (&[5], &[], 5, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new();
        let mut device = Device::new(dir.path(), limits(1 << 20, 1 << 20));
        for _ in 0..had {
            device = world.step(device, &Step::Record(1));
        }
        let mut devices = [device];
        world.run_until_synced(&mut devices);
        let [mut device] = devices;
        device = world.step(device, &Step::Record(10 - had));
        for (seqs, is_removed) in [(damaged, false), (removed, true)] {
            for seq in seqs {
                device.outbox.damage(Seq(*seq), is_removed);
            }
        }
        let mut devices = [device.crash(world.now)];
        world.run_until_synced(&mut devices);
        assert_eq!(world.server.event_numbers(), reported, "{damaged:?}, {removed:?}");
        let declared = world.server.lost(LossCause::Damaged) + world.server.lost(LossCause::Pruned);
        assert_eq!(declared, lost, "{damaged:?}, {removed:?}");
        let epochs = if lost == 0 { 1 } else { 2 };
        assert_eq!(devices[0].outbox.view().epoch, Epoch(epochs));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_recorded_event_is_in_the_log_once_and_in_order(steps in steps(true)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new();
        let mut device = Device::new(dir.path(), limits(1 << 20, 1 << 20));
        device.session.connected(world.now);
        for step in &steps {
            device = world.step(device, step);
        }
        let mut devices = [device];
        world.run_until_synced(&mut devices);
        prop_assert_eq!(world.server.event_numbers(), devices[0].recorded.clone());
    }

    #[test]
    fn events_missing_in_the_log_are_declared_lost(
        steps in steps(true),
        knows_its_stream in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new();
        world.server.is_caught_up = knows_its_stream.then_some(true);
        // Room for a few events of about 300 bytes; most are dropped.
        let mut device = Device::new(dir.path(), limits(4_000, 400));
        device.session.connected(world.now);
        for step in &steps {
            device = world.step(device, step);
        }
        let mut devices = [device];
        world.run_until_synced(&mut devices);
        let reported = world.server.event_numbers();
        let recorded = &devices[0].recorded;
        prop_assert!(is_subsequence(&reported, recorded), "{:?} of {:?}", reported, recorded);
        if !world.has_restored {
            prop_assert_eq!(&reported, recorded);
            let dropped = world.number - recorded.len() as u64;
            prop_assert_eq!(world.server.lost(LossCause::OutboxFull), dropped);
        } else {
            // Declarations of loss can be dropped, too, and are then counted.
            let missing = (recorded.len() - reported.len()) as u64;
            prop_assert!(world.server.lost(LossCause::Pruned) >= missing);
        }
    }

    #[test]
    fn both_branches_of_a_clone_are_kept(
        before in steps(false),
        first in steps(false),
        second in steps(false),
    ) {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut world = World::new();
        let mut device = Device::new(dir.path(), limits(1 << 20, 1 << 20));
        device.session.connected(world.now);
        for step in &before {
            device = world.step(device, step);
        }
        // The disk is copied while the device is off.
        let view = device.outbox.view();
        let common = device.recorded.clone();
        let doubtful = view.unconfirmed();
        let Device { outbox, session, recorded, .. } = device;
        drop((outbox, session));
        std::fs::copy(dir.path().join("agent.redb"), copy.path().join("agent.redb")).unwrap();
        let mut twins = [dir.path(), copy.path()].map(|dir| {
            let mut twin = Device::new(dir, limits(1 << 20, 1 << 20));
            twin.recorded = recorded.clone();
            twin.session.connected(world.now);
            twin
        });
        for (index, steps) in [first, second].iter().enumerate() {
            for step in steps {
                let [one, other] = twins;
                twins = if index == 0 {
                    [world.step(one, step), other]
                } else {
                    [one, world.step(other, step)]
                };
            }
        }
        world.run_until_synced(&mut twins);
        let reported = world.server.event_numbers();
        for twin in &twins {
            let own = &twin.recorded[common.len()..];
            prop_assert!(is_subsequence(own, &reported), "{:?} in {:?}", own, reported);
            for number in own {
                prop_assert_eq!(reported.iter().filter(|event| *event == number).count(), 1);
            }
        }
        // Both may report the events that were in flight when the disk was copied.
        for (index, number) in common.iter().enumerate() {
            let times = reported.iter().filter(|event| *event == number).count();
            let is_certain = index as u64 + doubtful < common.len() as u64;
            prop_assert!(
                times == 1 || (times == 2 && !is_certain),
                "{} is reported {} times",
                number,
                times
            );
        }
    }
}
