//! Versions of PostgreSQL, as servers report them.

use std::fmt;
use std::str::FromStr;

/// A server's version, as in `server_version_num`: major × 10000 + minor since PostgreSQL 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The major number: 15 for 15.8. (Before 10 the first of the two: 9 for 9.6.)
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The minor number: 8 for 15.8; 0 for a development version or a beta.
    pub const fn minor(self) -> u32 {
        self.0 % 10_000
    }
}

/// `15.8`.
impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// The text is not a version of PostgreSQL 10 or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVersion;

impl fmt::Display for InvalidVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a version of PostgreSQL 10 or later")
    }
}

impl std::error::Error for InvalidVersion {}

/// Reads the `server_version` parameter: `15.8 (Debian 15.8-0+deb12u1)`, `17beta2`, `19devel`.
impl FromStr for ServerVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<ServerVersion, InvalidVersion> {
        let (major, rest) = leading_number(text).ok_or(InvalidVersion)?;
        if !(10..1000).contains(&major) {
            return Err(InvalidVersion);
        }
        let minor = match rest.strip_prefix('.') {
            Some(rest) => leading_number(rest).ok_or(InvalidVersion)?.0,
            None => 0,
        };
        if minor >= 10_000 {
            return Err(InvalidVersion);
        }
        Ok(ServerVersion(major * 10_000 + minor))
    }
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_server_version_parameter() {
        for (text, number) in [
            ("15.8", 150_008),
            ("15.8 (Debian 15.8-0+deb12u1)", 150_008),
            ("17beta2", 170_000),
            ("19devel", 190_000),
            ("10.23", 100_023),
        ] {
            assert_eq!(text.parse(), Ok(ServerVersion(number)), "{text}");
        }
        assert_eq!(ServerVersion(150_008).to_string(), "15.8");
    }

    #[test]
    fn refuses_what_is_not_a_supported_version() {
        for text in ["", "9.6.24", "x", "15.", "15.99999", "99999999999", "1000"] {
            assert_eq!(text.parse::<ServerVersion>(), Err(InvalidVersion), "{text}");
        }
    }
}
