//! A position in the write-ahead log.

use std::fmt;
use std::ops::Add;
use std::str::FromStr;

/// A byte position in the WAL stream of one timeline (`XLogRecPtr`).
///
/// Shown as Postgres shows it: two hexadecimal halves, `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `InvalidXLogRecPtr`: no record begins at 0, since the first page of a segment has a header.
    pub const INVALID: Lsn = Lsn(0);
    /// Above every real position.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Whether this is a position at all (not [`Lsn::INVALID`]).
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position as a plain number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// `self + bytes`, or `None` beyond the end of the number range.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Lsn(sum)),
            None => None,
        }
    }

    /// `self - bytes`, or `None` below zero.
    pub const fn checked_sub(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_sub(bytes) {
            Some(difference) => Some(Lsn(difference)),
            None => None,
        }
    }

    /// Bytes from `earlier` up to `self`; 0 if `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next multiple of 8 at or above (`MAXALIGN`: where a record may begin).
    pub const fn align_up(self) -> Lsn {
        Lsn(self.0.saturating_add(7) & !7)
    }

    /// Number of the segment that holds this byte; `segment_bytes` is a power of two, 1 MiB to 1 GiB.
    pub const fn segment(self, segment_bytes: u32) -> u64 {
        match self.0.checked_div(segment_bytes as u64) {
            Some(number) => number,
            None => 0,
        }
    }

    /// Offset of this byte in its segment.
    pub const fn segment_offset(self, segment_bytes: u32) -> u64 {
        match self.0.checked_rem(segment_bytes as u64) {
            Some(offset) => offset,
            None => 0,
        }
    }
}

/// Addition stops at [`Lsn::MAX`]; use [`Lsn::checked_add`] where that must be told apart.
impl Add<u64> for Lsn {
    type Output = Lsn;

    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLsn;

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid LSN: expected two hexadecimal numbers such as 16/B374D848")
    }
}

impl std::error::Error for InvalidLsn {}

/// Accepts what `pg_lsn` accepts: 1 to 8 hexadecimal digits on each side of one slash.
impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Lsn, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        Ok(Lsn((half(high)? << 32) | half(low)?))
    }
}

fn half(digits: &str) -> Result<u64, InvalidLsn> {
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !plain {
        return Err(InvalidLsn);
    }
    u64::from_str_radix(digits, 16).map_err(|_not_hex| InvalidLsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_the_form_of_pg_lsn() {
        for (number, text) in [
            (0, "0/0"),
            (0x16B_3748, "0/16B3748"),
            (0x16_B374_D848, "16/B374D848"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(number)));
        }
        assert_eq!("a/b".parse(), Ok(Lsn(0xA_0000_000B)));
    }

    #[test]
    fn refuses_what_pg_lsn_refuses() {
        for text in
            ["", "0", "/", "0/", "/0", "G/0", "0/123456789", " 0/0", "-1/0", "+1/0", "0/1/2"]
        {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn), "{text}");
        }
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(Lsn::MAX + 1, Lsn::MAX);
        assert_eq!(Lsn::MAX.checked_add(1), None);
        assert_eq!(Lsn(5).checked_sub(6), None);
        assert_eq!(Lsn(5).bytes_since(Lsn(9)), 0);
        assert_eq!(Lsn(9).bytes_since(Lsn(5)), 4);
        assert_eq!(Lsn(17).align_up(), Lsn(24));
        assert_eq!(Lsn(24).align_up(), Lsn(24));
        assert_eq!(Lsn(0x0123_4567).segment(16 << 20), 1);
        assert_eq!(Lsn(0x0123_4567).segment_offset(16 << 20), 0x23_4567);
        assert_eq!(Lsn(1).segment(0), 0);
    }
}
