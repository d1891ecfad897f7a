//! Fuzzes `muster_fuzz::channel_message`; run it with `cargo +nightly fuzz run channel_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::channel_message(bytes));
