//! Tests of the backlog: bounded, the oldest batches are dropped first, times are corrected once.

use std::path::Path;
use std::sync::Arc;

use muster_schemas::Timestamp;
use muster_schemas::metrics::{MetricBatch, Point};
use uuid::Uuid;

use super::backlog::merge;
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
fn the_oldest_batches_are_sent_first_and_the_rest_survives_a_restart() {
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
        let (places, oldest) = backlog.oldest().unwrap();
        assert_eq!(oldest[0].mono, mono);
        backlog.remove(&places[..1]).unwrap();
    }
    assert_eq!(backlog.oldest().unwrap(), (vec![], vec![]));
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
        let (whole, taken) = merge(&[queued(42, is_corrected)], anchor.as_ref());
        assert_eq!((whole.unwrap().time, taken), (Timestamp(time), 1));
    }
}

fn large(mono: u64, points: usize) -> Queued {
    let point = |n: usize| Point { offset: n as i64, ..Point::new("app").field("n", n as i64) };
    let batch =
        MetricBatch { time: Timestamp(mono as i64), points: (0..points).map(point).collect() };
    Queued { boot: Uuid::from_u128(1), mono, is_corrected: true, batch: batch.encode() }
}

#[test]
fn queued_batches_are_merged_and_each_point_keeps_its_time() {
    let damaged = Queued { batch: b"\xff".to_vec(), ..large(7, 1) };
    let batches = [large(1_000, 2), damaged.clone(), large(5_000, 2), large(4_000, 1)];
    let (whole, taken) = merge(&batches, None);
    let whole = whole.unwrap();
    let times: Vec<i64> =
        whole.points.iter().map(|point| whole.time.micros() + point.offset).collect();
    assert_eq!((times, taken), (vec![1_000, 1_001, 5_000, 5_001, 4_000], 4));
    // As many as one message may contain.
    let (whole, taken) = merge(&[large(1, 6_000), large(2, 4_000), large(3, 1)], None);
    assert_eq!((whole.unwrap().points.len(), taken), (10_000, 2));
    assert_eq!(merge(&[damaged], None), (None, 1));
    assert_eq!(merge(&[], None), (None, 0));
}

#[test]
fn an_hour_of_backlog_is_a_few_small_messages() {
    let dir = tempfile::tempdir().unwrap();
    let backlog = open(dir.path(), 32 << 20);
    let mut plain = 0;
    for round in 0..360_u64 {
        let queued = large(round * 10_000_000, 12);
        plain += queued.batch.len();
        backlog.push(&queued);
    }
    assert!(backlog.view().bytes < plain as u64, "{} of {plain}", backlog.view().bytes);
    let (mut messages, mut bytes) = (0, 0);
    loop {
        let (places, batches) = backlog.oldest().unwrap();
        let (Some(whole), taken) = merge(&batches, None) else { break };
        messages += 1;
        bytes += whole.encode_compressed().len();
        backlog.remove(&places[..taken]).unwrap();
    }
    assert_eq!((messages, backlog.view().batches), (6, 0));
    assert!(bytes < plain / 2, "{bytes} of {plain}");
}
