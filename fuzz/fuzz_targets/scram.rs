//! SCRAM and stored passwords: noise never panics and never logs in.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::scram::run(input));
