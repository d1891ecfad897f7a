//! Fuzzes `muster_fuzz::run_order`; run it with `cargo +nightly fuzz run run_order`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::run_order(bytes));
