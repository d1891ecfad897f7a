//! Fuzzes `muster_fuzz::metric_batch`; run it with `cargo +nightly fuzz run metric_batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::metric_batch(bytes));
