//! Fuzzes `muster_fuzz::config_update`; run it with `cargo +nightly fuzz run config_update`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::config_update(bytes));
