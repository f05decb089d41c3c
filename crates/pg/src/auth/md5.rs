//! The md5 method: `"md5" + hex(md5(hex(md5(password + user)) + salt))` answers a random salt.
//!
//! The stored form is itself enough to log in; it is kept for clients and servers that have
//! nothing better. Documented in "Message Flow", section "Start-up", of the PostgreSQL manual.

use std::fmt;

use md5::{Digest, Md5};

use super::equal;

/// `md5(password + user)`, as 32 hexadecimal digits.
#[derive(Clone, Copy, Eq)]
pub struct Stored {
    hex: [u8; 32],
}

impl Stored {
    /// The stored form of a password.
    pub fn of(password: &[u8], user: &[u8]) -> Stored {
        Stored { hex: hex_md5(password, user) }
    }

    /// Reads `md5` and 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Stored> {
        let hex: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
        let lower = hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        lower.then_some(Stored { hex })
    }

    /// The client's answer to the server's salt: `md5` and 32 digits.
    pub fn response(&self, salt: [u8; 4]) -> String {
        format!("md5{}", String::from_utf8_lossy(&hex_md5(&self.hex, &salt)))
    }

    /// Whether the answer is right.
    pub fn verify(&self, salt: [u8; 4], response: &[u8]) -> bool {
        equal(self.response(salt).as_bytes(), response)
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Stored) -> bool {
        equal(&self.hex, &other.hex)
    }
}

/// The form that is stored. It is as good as the password: never for a log.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "md5{}", String::from_utf8_lossy(&self.hex))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stored(..)")
    }
}

fn hex_md5(first: &[u8], second: &[u8]) -> [u8; 32] {
    let digest = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut hex = [0; 32];
    for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [digit(byte >> 4), digit(byte & 0x0F)];
    }
    hex
}

const fn digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_postgres_does() {
        let stored = Stored::of(b"secret", b"foo");
        assert_eq!(stored.to_string(), format!("md5{}", md5_hex("secretfoo")));
        // An answer known from another client library's tests.
        assert_eq!(
            Stored::of(b"password", b"md5_user").response([0x2A, 0x3D, 0x8F, 0xE0]),
            "md562af4dd09bbb41884907a838a3233294"
        );
    }

    fn md5_hex(text: &str) -> String {
        Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn verifies_only_the_right_answer() {
        let stored = Stored::of(b"secret", b"user");
        let response = stored.response(*b"salt");
        assert!(stored.verify(*b"salt", response.as_bytes()));
        assert!(!stored.verify(*b"sale", response.as_bytes()));
        assert!(!stored.verify(*b"salt", b""));
        assert!(!Stored::of(b"Secret", b"user").verify(*b"salt", response.as_bytes()));
    }

    #[test]
    fn reads_what_it_writes() {
        let stored = Stored::of(b"", b"");
        assert_eq!(Stored::parse(&stored.to_string()), Some(stored));
    }
}
