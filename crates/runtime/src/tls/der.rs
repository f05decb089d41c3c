//! As much DER (ITU-T X.690) as reading names out of a certificate takes: definite lengths, one-byte tags.

/// Universal and context tags that occur in a certificate.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const TELETEX_STRING: u8 = 0x14;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Constructed context tag `[number]`.
pub(super) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// The elements of one DER value, front to back. Anything malformed reads as the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next element: its tag and contents.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.rest.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // Long form: the low bits count the bytes of the length. Four hold more than any certificate.
            let bytes = usize::from(first & 0x7f);
            if bytes == 0 || bytes > 4 {
                return None;
            }
            let (length, rest) = rest.split_at_checked(bytes)?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((tag, contents))
    }

    /// The contents of the next element if it has this tag; otherwise nothing is consumed.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (found, contents) = ahead.next()?;
        if found != tag {
            return None;
        }
        *self = ahead;
        Some(contents)
    }

    /// As [`Reader::take`], to read inside.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nested_elements_and_skips_what_is_not_asked_for() {
        // SEQUENCE { INTEGER 5, OCTET STRING (129 bytes), SET {} }
        let mut bytes =
            vec![SEQUENCE, 0x81, 3 + 3 + 129 + 2, INTEGER, 1, 5, OCTET_STRING, 0x81, 129];
        bytes.extend([7; 129]);
        bytes.extend([SET, 0]);
        let mut outer = Reader::new(&bytes);
        let mut inner = outer.enter(SEQUENCE).unwrap();
        assert_eq!(inner.take(BOOLEAN), None);
        assert_eq!(inner.take(INTEGER), Some(&[5][..]));
        assert_eq!(inner.next(), Some((OCTET_STRING, &[7; 129][..])));
        assert!(inner.enter(SET).is_some());
        assert_eq!(inner.next(), None);
        assert_eq!(outer.next(), None);
    }

    #[test]
    fn lying_lengths_read_as_the_end() {
        for bytes in [
            &[SEQUENCE][..],
            &[SEQUENCE, 3, 0, 0],
            &[SEQUENCE, 0x80, 0, 0],
            &[SEQUENCE, 0x85, 1, 1, 1, 1, 1],
            &[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[SEQUENCE, 0x82, 1],
        ] {
            assert_eq!(Reader::new(bytes).next(), None, "{bytes:x?}");
        }
    }
}
