//! A replica in memory that takes damaged records: it never takes more memory than the blocks that they name.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::replay::run(input));
