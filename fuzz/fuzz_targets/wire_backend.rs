//! Backend messages and what flows inside CopyData: no input panics.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::wire_backend::run(input));
