//! Fuzzes `muster_fuzz::query_string`; run it with `cargo +nightly fuzz run query_string`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::query_string(bytes));
