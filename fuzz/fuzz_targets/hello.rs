//! Fuzzes `muster_fuzz::hello`; run it with `cargo +nightly fuzz run hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::hello(bytes));
