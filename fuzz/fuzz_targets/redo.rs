//! Real records, damaged, on the pages they were made for, damaged, or on others': an error that tells where, or a page.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::redo::run(input));
