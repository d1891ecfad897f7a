//! Fuzzes `muster_fuzz::selector`; run it with `cargo +nightly fuzz run selector`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::selector(bytes));
