//! Fuzzes `muster_fuzz::welcome`; run it with `cargo +nightly fuzz run welcome`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::welcome(bytes));
