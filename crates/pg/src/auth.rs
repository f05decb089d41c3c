//! Authentication, both sides of it: md5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
//!
//! Nothing here draws random numbers: nonces and salts are passed in.

use subtle::ConstantTimeEq;

/// Compares two secrets in time that depends on their lengths alone.
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}
