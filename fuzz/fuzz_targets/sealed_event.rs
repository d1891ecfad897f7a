//! Fuzzes `muster_fuzz::sealed_event`; run it with `cargo +nightly fuzz run sealed_event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::sealed_event(bytes));
