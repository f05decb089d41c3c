//! The WAL as a stream: any bytes, also as pages with right headers, in pieces of any size.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::wal::run(input));
