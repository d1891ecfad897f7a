//! Fuzzes `muster_fuzz::channel_open`; run it with `cargo +nightly fuzz run channel_open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::channel_open(bytes));
