//! Fuzzes `muster_fuzz::enroll_proof`; run it with `cargo +nightly fuzz run enroll_proof`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::enroll_proof(bytes));
