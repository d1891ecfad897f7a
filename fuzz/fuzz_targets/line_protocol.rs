//! Fuzzes `muster_fuzz::line_protocol`; run it with `cargo +nightly fuzz run line_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::line_protocol(bytes));
