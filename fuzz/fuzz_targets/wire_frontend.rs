//! Frontend messages: no input panics, and what a view says can be built again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::wire_frontend::run(input));
