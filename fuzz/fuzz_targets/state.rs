//! What records do besides changing pages, and values under keys: real records, damaged, on any value.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::state::run(input));
