//! Fuzzes `muster_fuzz::token_text`; run it with `cargo +nightly fuzz run token_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::token_text(bytes));
