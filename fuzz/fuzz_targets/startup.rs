//! Start-up packets: no input panics, and a packet's parameters can be built again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::startup::run(input));
