//! Everything that administrators write: no text panics, and what is read back is what was read.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::config::run(input));
