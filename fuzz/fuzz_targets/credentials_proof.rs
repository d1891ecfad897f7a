//! Fuzzes `muster_fuzz::credentials_proof`; run it with `cargo +nightly fuzz run credentials_proof`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::credentials_proof(bytes));
