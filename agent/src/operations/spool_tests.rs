//! Tests of storing, sending, truncating and deleting output.

use muster_schemas::wire::output_hash;
use serde_bytes::ByteArray;
use uuid::Uuid;

use super::*;

const SALTS: Salts = Salts { stdout: ByteArray::new([1; 16]), stderr: ByteArray::new([2; 16]) };

fn id(number: u128) -> OperationId {
    OperationId(Uuid::from_u128(number))
}

#[test]
fn outputs_are_stored_sent_in_order_and_deleted() {
    use OutputStream::{Stderr, Stdout};
    let dir = tempfile::tempdir().unwrap();
    let spools = Spools::new(dir.path(), 1 << 20);
    let spool = spools.create(id(1), &SALTS);
    assert_eq!(spools.next_piece(&spool, None).unwrap(), None);
    assert_eq!(spools.write(&spool, Stdout, b"hello"), ReadPace::Continue);
    assert_eq!(spools.write(&spool, Stderr, &[0, 255]), ReadPace::Continue);
    let [out, err] = spool.summaries();
    assert_eq!((out.bytes, out.kept), (5, 5));
    assert_eq!(out.hash, Some(output_hash(&[1; 16], b"hello")));
    assert_eq!(err.hash, Some(output_hash(&[2; 16], &[0, 255])));
    let first = spools.next_piece(&spool, None).unwrap().unwrap();
    assert_eq!((first.offset, first.is_last, first.salt), (0, false, Some([1; 16])));
    spool.acknowledge(Stdout, 5, false);
    let other = spools.next_piece(&spool, Some(Stdout)).unwrap().unwrap();
    assert_eq!((other.stream, other.data.as_slice()), (Stderr, &[0, 255][..]));
    spool.end();
    let last = spools.next_piece(&spool, Some(Stderr)).unwrap().unwrap();
    assert_eq!((last.offset, last.data.len(), last.is_last, last.salt), (5, 0, true, None));
    spool.acknowledge(Stdout, 5, true);
    spool.acknowledge(Stderr, 2, true);
    assert!(spool.is_done());
    assert!(spools.path(id(1), Stdout).exists());
    spools.remove(&spool);
    assert!(!spools.path(id(1), Stdout).exists());
    assert_eq!(spools.used.load(Ordering::Relaxed), 0);
}

#[test]
fn the_first_bytes_are_stored_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let spools = Spools::new(dir.path(), 10);
    let spool = spools.create(id(1), &SALTS);
    assert_eq!(spools.write(&spool, OutputStream::Stdout, b"12345678"), ReadPace::Continue);
    assert_eq!(spools.write(&spool, OutputStream::Stdout, b"9abcd"), ReadPace::Delay);
    assert_eq!(
        spools.write(&spool, OutputStream::Stderr, b"x"),
        ReadPace::Delay,
        "one limit for all"
    );
    let [out, err] = spool.summaries();
    assert_eq!((out.bytes, out.kept), (13, 10));
    assert_eq!((err.bytes, err.kept, err.hash), (1, 0, None));
    spools.remove(&spool);
    let spool = spools.create(id(2), &SALTS);
    assert_eq!(
        spools.write(&spool, OutputStream::Stdout, b"there is"),
        ReadPace::Continue,
        "room again"
    );
}

#[test]
fn stored_output_survives_a_restart_and_unknown_files_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let spools = Spools::new(dir.path(), 1 << 20);
    let spool = spools.create(id(1), &SALTS);
    spools.write(&spool, OutputStream::Stdout, b"hello");
    let before = spool.summaries();
    let stranger = spools.path(id(2), OutputStream::Stdout);
    std::fs::write(&stranger, b"x").unwrap();
    let spools = Spools::new(dir.path(), 1 << 20);
    spools.sweep(|operation| operation == id(1));
    assert!(!stranger.exists());
    let spool = spools.restore(id(1), &SALTS).unwrap();
    assert_eq!(spool.summaries(), before);
    let piece = spools.next_piece(&spool, None).unwrap().unwrap();
    assert_eq!((piece.data.as_slice(), piece.is_last), (&b"hello"[..], true));
    assert!(spools.restore(id(2), &SALTS).is_none());
}

#[test]
fn output_that_cannot_be_written_is_truncated() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("runs"), b"in the way").unwrap();
    let spools = Spools::new(dir.path(), 1 << 20);
    let spool = spools.create(id(1), &SALTS);
    assert_eq!(spools.write(&spool, OutputStream::Stdout, b"hello"), ReadPace::Delay);
    assert_eq!(spool.summaries()[0], OutputSummary { bytes: 5, kept: 0, hash: None });
}
