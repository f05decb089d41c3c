//! Authentication, both sides of it: clear text, md5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
//!
//! Nothing here draws random numbers: salts and nonces are passed in. No `Debug` shows a secret.

pub mod md5;
pub mod sasl;
pub mod scram;

use std::fmt;

use subtle::ConstantTimeEq;

/// Compares two secrets in time that depends on their lengths alone.
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// What is stored for a user: in `pg_authid.rolpassword`, in a password file, in an auth query's
/// answer.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself (only in files).
    Plain(String),
    /// `md5` and 32 hexadecimal digits.
    Md5(md5::Stored),
    /// `SCRAM-SHA-256$…`.
    Scram(scram::Secret),
}

impl Password {
    /// Tells the kinds apart as Postgres does (`get_password_type`): whatever is not exactly a
    /// hash is a password.
    pub fn parse(stored: &str) -> Password {
        if let Some(hash) = md5::Stored::parse(stored) {
            return Password::Md5(hash);
        }
        match stored.parse() {
            Ok(secret) => Password::Scram(secret),
            Err(_not_a_secret) => Password::Plain(stored.to_owned()),
        }
    }

    /// Whether this is the user's password, given in clear text. With a SCRAM secret this costs
    /// as much time as a log-in.
    pub fn verify_clear(&self, user: &[u8], password: &[u8]) -> bool {
        match self {
            Password::Plain(stored) => equal(stored.as_bytes(), password),
            Password::Md5(stored) => *stored == md5::Stored::of(password, user),
            Password::Scram(secret) => secret.verify_clear(password),
        }
    }

    /// Whether this answers an md5 demand with that salt. A SCRAM secret can't tell: false.
    pub fn verify_md5(&self, user: &[u8], salt: [u8; 4], response: &[u8]) -> bool {
        match self {
            Password::Plain(stored) => {
                md5::Stored::of(stored.as_bytes(), user).verify(salt, response)
            }
            Password::Md5(stored) => stored.verify(salt, response),
            Password::Scram(_) => false,
        }
    }
}

/// The kind alone.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Password::Plain(_) => "Plain(..)",
            Password::Md5(_) => "Md5(..)",
            Password::Scram(_) => "Scram(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn tells_stored_passwords_apart() {
        assert!(matches!(Password::parse("md53175bce1d3201d16594cebf9d7eb3f9d"), Password::Md5(_)));
        assert!(matches!(Password::parse(SCRAM), Password::Scram(_)));
        for plain in [
            "",
            "secret",
            "md5",
            "md53175bce1d3201d16594cebf9d7eb3f9",
            "md53175BCE1D3201D16594CEBF9D7EB3F9D",
            "SCRAM-SHA-256$4096",
            "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$a:b",
        ] {
            assert!(matches!(Password::parse(plain), Password::Plain(_)), "{plain}");
        }
    }

    #[test]
    fn verifies_a_clear_password_against_each_kind() {
        // RFC 7677's user and password.
        for stored in ["pencil", &md5::Stored::of(b"pencil", b"user").to_string(), SCRAM] {
            let stored = Password::parse(stored);
            assert!(stored.verify_clear(b"user", b"pencil"), "{stored:?}");
            assert!(!stored.verify_clear(b"user", b"pencils"), "{stored:?}");
        }
    }

    #[test]
    fn shows_no_secret() {
        for stored in ["pencil", "md53175bce1d3201d16594cebf9d7eb3f9d", SCRAM] {
            let shown = format!("{:?}", Password::parse(stored));
            assert!(shown.ends_with("(..)"), "{shown}");
        }
    }
}
