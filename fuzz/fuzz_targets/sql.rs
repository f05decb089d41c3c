//! The lexer: no text panics, every token moves on, statements lie within the text.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| howdah_fuzz::sql::run(input));
