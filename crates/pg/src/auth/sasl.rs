//! SASL around SCRAM: the mechanisms' names, which one to use, and the channel binding
//! `tls-server-end-point` (RFC 5929, section 4).

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// With channel binding; only over TLS.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What a server offers, the better one first. `binding` tells whether the connection is TLS and
/// [`server_end_point`] knows the certificate.
pub const fn offer(binding: bool) -> &'static [&'static str] {
    if binding { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
}

/// How a client binds the exchange to the TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientBinding {
    /// `n`: no TLS, or a certificate without a usable hash.
    None,
    /// `y`: we could, but the server did not offer it. If it did and someone in between cut the
    /// offer, the server refuses.
    NotOffered,
    /// `p`: with [`server_end_point`] of the server's certificate.
    EndPoint(Vec<u8>),
}

impl ClientBinding {
    /// Chooses a mechanism from a server's offer; `None` if there is none that we know.
    /// `end_point` is the hash of the server's certificate if the connection is TLS.
    pub fn choose<'o>(
        offered: impl IntoIterator<Item = &'o [u8]>,
        end_point: Option<Vec<u8>>,
    ) -> Option<ClientBinding> {
        let (mut plain, mut plus) = (false, false);
        for name in offered {
            plain |= name == SCRAM_SHA_256.as_bytes();
            plus |= name == SCRAM_SHA_256_PLUS.as_bytes();
        }
        match (plain, plus, end_point) {
            (_, true, Some(hash)) => Some(ClientBinding::EndPoint(hash)),
            (true, false, Some(_)) => Some(ClientBinding::NotOffered),
            (true, _, None) => Some(ClientBinding::None),
            _ => None,
        }
    }

    /// The mechanism's name for SASLInitialResponse.
    pub const fn mechanism(&self) -> &'static str {
        match self {
            ClientBinding::EndPoint(_) => SCRAM_SHA_256_PLUS,
            ClientBinding::None | ClientBinding::NotOffered => SCRAM_SHA_256,
        }
    }
}

/// The hash that binds to a server's certificate (DER): by the hash function of the certificate's
/// signature, SHA-256 if that is MD5 or SHA-1. `None` for signatures without one (Ed25519) or
/// unknown, for which Postgres cannot bind either.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    match signature_hash(certificate)? {
        Hash::Sha224 => Some(Sha224::digest(certificate).to_vec()),
        Hash::Sha256 => Some(Sha256::digest(certificate).to_vec()),
        Hash::Sha384 => Some(Sha384::digest(certificate).to_vec()),
        Hash::Sha512 => Some(Sha512::digest(certificate).to_vec()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

// Object identifiers, DER content bytes.
const PKCS1: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01]; // 1.2.840.113549.1.1
const ECDSA_WITH_SHA1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01]; // 1.2.840.10045.4.1
const ECDSA_WITH_SHA2: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03]; // 1.2.840.10045.4.3
const NIST_HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02]; // 2.16.840.1.101.3.4.2
const SHA1: &[u8] = &[0x2B, 0x0E, 0x03, 0x02, 0x1A]; // 1.3.14.3.2.26

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const HASH_OF_PSS: u8 = 0xA0;

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, … }, … }`.
fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_, after_tbs) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(after_tbs, SEQUENCE)?;
    let (oid, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    if oid == ECDSA_WITH_SHA1 {
        return Some(Hash::Sha256);
    }
    let (last, family) = oid.split_last()?;
    match (family, last) {
        (PKCS1, 4 | 5) => Some(Hash::Sha256), // MD5 and SHA-1 with RSA
        (PKCS1, 10) => pss_hash(parameters),
        (PKCS1, 11) | (ECDSA_WITH_SHA2, 2) => Some(Hash::Sha256),
        (PKCS1, 12) | (ECDSA_WITH_SHA2, 3) => Some(Hash::Sha384),
        (PKCS1, 13) | (ECDSA_WITH_SHA2, 4) => Some(Hash::Sha512),
        (PKCS1, 14) | (ECDSA_WITH_SHA2, 1) => Some(Hash::Sha224),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in parameters (RFC 4055, section 3.1); SHA-1 if it does not.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (parameters, _) = element(parameters, SEQUENCE)?;
    let Some((hash, _)) = element(parameters, HASH_OF_PSS) else {
        return Some(Hash::Sha256);
    };
    let (algorithm, _) = element(hash, SEQUENCE)?;
    let (oid, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    if oid == SHA1 {
        return Some(Hash::Sha256);
    }
    match oid.split_last()? {
        (1, NIST_HASHES) => Some(Hash::Sha256),
        (2, NIST_HASHES) => Some(Hash::Sha384),
        (3, NIST_HASHES) => Some(Hash::Sha512),
        (4, NIST_HASHES) => Some(Hash::Sha224),
        _ => None,
    }
}

/// One DER element with this tag: its content and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    if *length < 0x80 {
        return rest.split_at_checked(usize::from(*length));
    }
    let count = usize::from(*length & 0x7F);
    if count == 0 || count > 4 {
        return None;
    }
    let (digits, rest) = rest.split_at_checked(count)?;
    let length = digits.iter().fold(0_u64, |length, digit| length << 8 | u64::from(*digit));
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate's outer shape: an empty body, then the algorithm.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let mut content = vec![SEQUENCE, 0, SEQUENCE, u8::try_from(algorithm.len()).unwrap()];
        content.extend_from_slice(algorithm);
        let mut certificate = vec![SEQUENCE, u8::try_from(content.len()).unwrap()];
        certificate.append(&mut content);
        certificate
    }

    fn oid(family: &[u8], last: u8) -> Vec<u8> {
        let length = u8::try_from(family.len() + 1).unwrap();
        [&[OBJECT_IDENTIFIER, length], family, &[last]].concat()
    }

    #[test]
    fn hashes_a_certificate_as_it_was_signed() {
        for (family, last, hash) in [
            (PKCS1, 4, Some(Hash::Sha256)),
            (PKCS1, 5, Some(Hash::Sha256)),
            (PKCS1, 11, Some(Hash::Sha256)),
            (PKCS1, 12, Some(Hash::Sha384)),
            (PKCS1, 13, Some(Hash::Sha512)),
            (PKCS1, 14, Some(Hash::Sha224)),
            (ECDSA_WITH_SHA2, 1, Some(Hash::Sha224)),
            (ECDSA_WITH_SHA2, 2, Some(Hash::Sha256)),
            (ECDSA_WITH_SHA2, 3, Some(Hash::Sha384)),
            (ECDSA_WITH_SHA2, 4, Some(Hash::Sha512)),
            (&[0x2B, 0x65], 0x70, None), // Ed25519
        ] {
            assert_eq!(
                signature_hash(&certificate(&oid(family, last))),
                hash,
                "{family:x?} {last}"
            );
        }
    }

    #[test]
    fn reads_the_hash_of_a_pss_signature() {
        let hash = oid(NIST_HASHES, 3);
        let sequence = [&[SEQUENCE, u8::try_from(hash.len()).unwrap()], &hash[..]].concat();
        let tagged =
            [&[HASH_OF_PSS, u8::try_from(sequence.len()).unwrap()], &sequence[..]].concat();
        let parameters = [&[SEQUENCE, u8::try_from(tagged.len()).unwrap()], &tagged[..]].concat();
        let algorithm = [oid(PKCS1, 10), parameters].concat();
        assert_eq!(signature_hash(&certificate(&algorithm)), Some(Hash::Sha512));
        let default = [oid(PKCS1, 10), vec![SEQUENCE, 0]].concat();
        assert_eq!(signature_hash(&certificate(&default)), Some(Hash::Sha256));
    }

    #[test]
    fn chooses_the_best_offered_mechanism() {
        let (plain, plus) = (SCRAM_SHA_256.as_bytes(), SCRAM_SHA_256_PLUS.as_bytes());
        let hash = || Some(vec![1, 2]);
        let choose =
            |offer: &[&'static [u8]], hash| ClientBinding::choose(offer.iter().copied(), hash);
        assert_eq!(choose(&[plus, plain], hash()), Some(ClientBinding::EndPoint(vec![1, 2])));
        assert_eq!(choose(&[plain], hash()), Some(ClientBinding::NotOffered));
        assert_eq!(choose(&[plus, plain], None), Some(ClientBinding::None));
        assert_eq!(choose(&[plain], None), Some(ClientBinding::None));
        assert_eq!(choose(&[plus], None), None);
        assert_eq!(choose(&[b"OAUTHBEARER"], hash()), None);
    }
}
