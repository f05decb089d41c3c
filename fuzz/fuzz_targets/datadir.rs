//! Files of a data directory: any bytes, their checksum put right.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::datadir::run(input));
