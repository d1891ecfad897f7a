//! Fuzzes `muster_fuzz::ack`; run it with `cargo +nightly fuzz run ack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::ack(bytes));
