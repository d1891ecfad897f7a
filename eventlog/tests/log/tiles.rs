//! The stored tiles of the Merkle tree: complete, rebuilt equally, and read by another
//! implementation.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use muster_eventlog::projection::Runner;
use muster_eventlog::tiles::{
    ProofError, TREE_TILES, TreeTiles, tile_path, verify_consistency, verify_inclusion,
};
use muster_eventlog::{EventLog, Expected, Follower, ReadFilter};
use muster_schemas::authority::{AuthorityKey, AuthorityVerifier};
use muster_schemas::{Hash, Position, ProjectId};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::database;
use crate::{all, append};

/// Runs the projection until the guard is dropped; returns when it has reached the log's head.
async fn run_tiles(log: &EventLog) -> DropGuard {
    let stop = CancellationToken::new();
    let runner = Runner::open(log.clone(), TreeTiles::default()).await.unwrap();
    let progress = runner.progress();
    let follower = Follower::start(log, stop.clone());
    tokio::spawn(runner.run(follower, stop.clone()));
    let project = ProjectId::default_project();
    let head = log.head(&project).await.unwrap().unwrap().position;
    assert!(progress.wait_for(&project, head, Duration::from_secs(30)).await);
    stop.drop_guard()
}

async fn append_events(log: &EventLog, number: u128) -> u64 {
    let project = ProjectId::default_project();
    log.append(&project, append("a", Expected::Any, number)).await.unwrap().last.get()
}

#[tokio::test]
async fn proofs_are_complete_at_every_size_while_the_log_grows() {
    let database = database().await;
    let plain = database.open().await;
    let key = AuthorityKey::from_seed(&[1; 32]);
    let verifier = AuthorityVerifier::from_secret_keys(std::slice::from_ref(&key));
    let log = plain.with_authority(key, verifier);
    let project = ProjectId::default_project();
    let mut roots = vec![];
    let mut running = None;
    // Batches that end before, at and after the end of a tile; the projection restarts in between.
    // The tree also contains events without a proof of authority.
    for (index, number) in [1, 254, 1, 1, 300, 211, 5].into_iter().enumerate() {
        let size = append_events(if index % 2 == 0 { &plain } else { &log }, number).await;
        roots.push((size, log.head(&project).await.unwrap().unwrap().root));
        drop(running.replace(run_tiles(&log).await));
    }
    let events = all(&log).await;
    for (size, root) in &roots {
        assert_eq!(log.root_at(&project, *size).await.unwrap(), *root, "size {size}");
        for position in [1, *size / 2 + 1, *size].map(Position) {
            let proof = log.prove_inclusion(&project, position, *size).await.unwrap();
            let leaf = events[position.index().unwrap() as usize].leaf(&project);
            assert!(verify_inclusion(&proof, *size, *root, position, leaf), "{position} of {size}");
        }
    }
    for (index, old) in roots.iter().enumerate() {
        for new in &roots[index..] {
            let proof = log.prove_consistency(&project, old.0, new.0).await.unwrap();
            assert!(verify_consistency(&proof, *old, *new), "{old:?} {new:?}");
        }
    }
    for (position, size) in [(0, 10), (11, 10), (1, u64::MAX)] {
        let missing = log.prove_inclusion(&project, Position(position), size).await;
        assert!(matches!(missing, Err(ProofError::OutOfRange { .. })), "{missing:?}");
    }
    drop(running);

    // A second database, filled in one go, has the same tiles.
    let rows = "SELECT level || ' ' || tile || ' ' || encode(hashes, 'hex')
         FROM tree_tiles_v1 ORDER BY level, tile";
    let restored = database.dump_and_restore().await;
    restored.execute(&format!("TRUNCATE {TREE_TILES}; DELETE FROM checkpoints")).await;
    let copy = restored.open().await;
    let _running = run_tiles(&copy).await;
    assert_eq!(restored.texts(rows).await, database.texts(rows).await);
}

#[tokio::test]
async fn events_that_are_applied_again_do_not_damage_the_tiles() {
    let database = database().await;
    let log = database.open().await;
    append_events(&log, 600).await;
    drop(run_tiles(&log).await);
    let rows = "SELECT level || encode(hashes, 'hex') FROM tree_tiles_v1 ORDER BY level, tile";
    let before = database.texts(rows).await;
    database.execute("DELETE FROM checkpoints").await;
    let stop = CancellationToken::new();
    let runner = Runner::open(log.clone(), TreeTiles::default()).await.unwrap();
    let progress = runner.progress();
    tokio::spawn(runner.run(Follower::start(&log, stop.clone()), stop.clone()));
    let project = ProjectId::default_project();
    assert!(!progress.wait_for(&project, Position(600), Duration::from_secs(2)).await);
    assert_eq!(database.texts(rows).await, before);
    stop.cancel();
}

#[tokio::test]
async fn a_proof_waits_for_tiles_that_are_behind_the_log() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let running = run_tiles(&log).await;
    drop(running);
    let size = append_events(&log, 600).await;
    let proof = log.prove_inclusion(&project, Position(1), size).await;
    assert!(matches!(proof, Err(ProofError::Behind { size: 600 })), "{proof:?}");
    let _running = run_tiles(&log).await;
    log.prove_inclusion(&project, Position(1), size).await.unwrap();
}

/// Verifies the tiles of a folder with another implementation: prints the root, and an inclusion
/// and a consistency proof, all computed from the tiles.
const VERIFIER: &str = r#"
import sys
from aics_tlog.tiles import *
from aics_tlog.tree import verify_inclusion, verify_consistency
folder, size, old, index = sys.argv[1], *map(int, sys.argv[2:5])
reader = FileSystemTileReader(folder)
print(tree_root_from_tiles(reader, size).hex())
for proof in (inclusion_proof_from_tiles(reader, index, size),
              consistency_proof_from_tiles(reader, old, size)):
    print(" ".join(hash.hex() for hash in proof))
"#;

/// The Python with the other implementation, which `scripts/deps test` installs.
fn python() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    let user_cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let cache =
        std::env::var_os("MUSTER_CACHE").map_or_else(|| user_cache().join("muster"), PathBuf::from);
    let python = cache.join("aics-tlog/bin/python");
    assert!(python.exists(), "{} is missing; run scripts/deps test", python.display());
    python
}

#[tokio::test]
async fn another_implementation_computes_the_same_proofs_from_the_tiles() {
    let database = database().await;
    let log = database.open().await;
    let project = ProjectId::default_project();
    let size = append_events(&log, 1000).await;
    let _running = run_tiles(&log).await;
    let folder = tempfile::tempdir().unwrap();
    for (level, tiles) in [(0, 0..4), (1, 0..1)] {
        for index in tiles {
            let hashes = log.tile(&project, level, index, size).await.unwrap().unwrap();
            let path = folder.path().join(tile_path(level, index, &hashes));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, hashes).unwrap();
        }
    }
    assert_eq!(log.tile(&project, 0, 4, size).await.unwrap(), None);
    let (old, position) = (300, Position(777));
    let output = Command::new(python())
        .args(["-c", VERIFIER])
        .arg(folder.path())
        .args([size, old, position.previous().get()].map(|number| number.to_string()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text =
        |hashes: &[Hash]| hashes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let expected = [
        text(&[log.root_at(&project, size).await.unwrap()]),
        text(&log.prove_inclusion(&project, position, size).await.unwrap()),
        text(&log.prove_consistency(&project, old, size).await.unwrap()),
    ];
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), expected);
    let filter = ReadFilter { after: position.previous(), until: Some(position), kinds: vec![] };
    let event = log.read(&project, &filter, 1).await.unwrap().remove(0);
    let proof = log.prove_inclusion(&project, position, size).await.unwrap();
    let root = log.root_at(&project, size).await.unwrap();
    assert!(verify_inclusion(&proof, size, root, position, event.leaf(&project)));
}
