//! Numbers and texts as bytes, for what the page server writes beside pages: variable-length integers (LEB128) and
//! byte strings behind their length.

/// Appends to a buffer.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Seven bits a byte, the low ones first.
    pub fn number(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    /// A number that may be missing: 0, or the number plus one.
    pub fn optional(&mut self, value: Option<u32>) {
        self.number(value.map_or(0, |value| u64::from(value) + 1));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

/// Reads what a [`Writer`] wrote; `None` wherever the bytes are not of that kind.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    #[expect(clippy::option_option, reason = "the outer one says that bytes are missing")]
    pub fn optional(&mut self) -> Option<Option<u32>> {
        match self.number()? {
            0 => Some(None),
            value => Some(Some(u32::try_from(value - 1).ok()?)),
        }
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A count of things of which each takes at least one byte: never more than there are bytes.
    pub fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|&count| count <= self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_was_written(numbers: Vec<u64>, small: Option<u32>, bytes: Vec<u8>) {
            let mut writer = Writer::default();
            numbers.iter().for_each(|&number| writer.number(number));
            writer.optional(small.map(|value| value.min(u32::MAX - 1)));
            writer.bytes(&bytes);
            let mut reader = Reader(&writer.0);
            for number in numbers {
                prop_assert_eq!(reader.number(), Some(number));
            }
            prop_assert_eq!(reader.optional(), Some(small.map(|value| value.min(u32::MAX - 1))));
            prop_assert_eq!(reader.bytes(), Some(&bytes[..]));
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn never_reads_beyond_the_end(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            while reader.bytes().is_some() {}
            let mut reader = Reader(&bytes);
            while reader.number().is_some() {}
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_none() {
        assert_eq!(Reader(&[0xFF; 9]).number(), None);
        let mut largest = [0xFF; 10];
        largest[9] = 1;
        assert_eq!(Reader(&largest).number(), Some(u64::MAX));
        largest[9] = 2;
        assert_eq!(Reader(&largest).number(), None);
    }
}
