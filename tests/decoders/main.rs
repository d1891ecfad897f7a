//! The bodies of the fuzz targets (`fuzz/src/lib.rs`) on a stable compiler: with their seeds, the
//! seeds' truncations and bit flips, and random bytes. Finds what a short fuzz run would find; see
//! `fuzz/README.md` for a long one.

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library of its own to cargo-fuzz")]
mod fuzz;

const RANDOM_INPUTS: usize = 3000;
const FLIPS: usize = 64;

fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/golden");
    let files = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let stem = path.file_stem()?.to_str()?.to_owned();
        path.extension().filter(|ending| *ending == "cbor")?;
        Some((stem, fs::read(path).ok()?))
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

/// Runs a body; a panic message contains the input, so that it can be reproduced.
fn run(name: &str, body: fuzz::Body, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| body(input));
    assert!(outcome.is_ok(), "{name} panicked on {}", data_encoding::HEXLOWER.encode(input));
}

fn storm(name: &str) {
    let found = fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    let Some((_, body)) = found.copied() else { panic!("no target is called {name}") };
    let golden = golden();
    assert!(golden.len() > 30, "the golden files are there");
    let seeds = fuzz::seeds(name, &golden);
    assert!(!seeds.is_empty());
    // A fixed seed, so that a failed run can be repeated.
    let mut random = StdRng::seed_from_u64(42);
    for seed in &seeds {
        for end in 0..=seed.len() {
            run(name, body, &seed[..end]);
        }
        for _ in 0..FLIPS {
            let mut bent = seed.clone();
            for _ in 0..random.random_range(1..=3) {
                let at = random.random_range(0..bent.len());
                bent[at] ^= 1 << random.random_range(0..8);
            }
            run(name, body, &bent);
        }
    }
    for _ in 0..RANDOM_INPUTS {
        let mut input = vec![0; random.random_range(0..200)];
        random.fill_bytes(&mut input);
        run(name, body, &input);
    }
}

macro_rules! storms {
    ($($name:ident)+) => {
        $( #[test] fn $name() { storm(stringify!($name)); } )+

        #[test]
        fn every_fuzz_target_is_tested_and_has_its_file() {
            let stormed = [$(stringify!($name)),+];
            let targets: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(stormed.as_slice(), targets.as_slice());
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
            let mut files: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            let mut targets = targets;
            files.sort();
            targets.sort_unstable();
            assert_eq!(files, targets);
        }
    };
}

storms! {
    sealed_event event_data metric_batch hello enroll_proof credentials_proof token_text selector
    line_protocol query_string ack welcome config_update advisory connections
    run_order output_piece channel_open channel_frame channel_message
}
