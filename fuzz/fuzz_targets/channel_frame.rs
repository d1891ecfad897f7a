//! Fuzzes `muster_fuzz::channel_frame`; run it with `cargo +nightly fuzz run channel_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::channel_frame(bytes));
