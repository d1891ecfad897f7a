//! Fuzzes `muster_fuzz::output_piece`; run it with `cargo +nightly fuzz run output_piece`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| muster_fuzz::output_piece(bytes));
