//! The splitter: the same messages wherever the stream is cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::splitter::run(input));
