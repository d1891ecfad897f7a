//! Fuzzes `muster_fuzz::connections`; run it with `cargo +nightly fuzz run connections`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::connections(bytes));
