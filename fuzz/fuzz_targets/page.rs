//! Masks, comparison and checksum of any page: masking is the same whether done once or twice.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::page::run(input));
