//! Fuzzes `muster_fuzz::advisory`; run it with `cargo +nightly fuzz run advisory`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::advisory(bytes));
