//! Fuzzes `muster_fuzz::event_data`; run it with `cargo +nightly fuzz run event_data`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::event_data(bytes));
