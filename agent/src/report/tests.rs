//! The backlog: bounded, oldest first out, corrected once.

use std::path::Path;
use std::sync::Arc;

use muster_schemas::Timestamp;
use muster_schemas::metrics::{MetricBatch, Point};
use uuid::Uuid;

use super::*;
use crate::clock::Anchor;
use crate::store::{Folder, Store};

fn open(dir: &Path, limit: u64) -> Backlog {
    Backlog::open(Arc::new(Store::open(Folder::open(dir).unwrap()).unwrap()), limit).unwrap()
}

fn queued(mono: u64, is_corrected: bool) -> Queued {
    let points = vec![Point::new("mem").field("used", mono)];
    let batch = MetricBatch { time: Timestamp(mono as i64), points }.encode();
    Queued { boot: Uuid::from_u128(1), mono, is_corrected, batch }
}

#[test]
fn the_oldest_batches_go_first_and_the_rest_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let size = muster_schemas::codec::encode(&queued(10, true)).len() as u64;
    let backlog = open(dir.path(), 5 * size);
    for mono in 10..18 {
        backlog.push(&queued(mono, true));
    }
    assert_eq!(backlog.view(), BacklogView { batches: 5, bytes: 5 * size, dropped: 3 });
    drop(backlog);
    let backlog = open(dir.path(), 5 * size);
    assert_eq!(backlog.view(), BacklogView { batches: 5, bytes: 5 * size, dropped: 0 });
    for mono in 13..18 {
        let (place, first) = backlog.first().unwrap().unwrap();
        assert_eq!(first.mono, mono);
        backlog.remove(place).unwrap();
    }
    assert_eq!(backlog.first().unwrap(), None);
    assert_eq!(backlog.view().bytes, 0);
    backlog.push(&queued(20, true));
    assert_eq!(backlog.view().batches, 1);
}

#[test]
fn a_time_is_corrected_once_and_only_when_the_clock_is_known() {
    let anchor = |boot| Anchor { boot: Uuid::from_u128(boot), mono: 5, server: Timestamp(1_005) };
    for (is_corrected, anchor, time) in [
        (false, None, 42),
        (false, Some(anchor(1)), 1_042),
        (false, Some(anchor(2)), 42),
        (true, Some(anchor(1)), 42),
    ] {
        let wire = queued(42, is_corrected).to_wire(anchor.as_ref());
        assert_eq!(MetricBatch::decode(&wire).unwrap().time, Timestamp(time));
    }
}
