//! What a certificate says about its owner (RFC 5280): names, validity, and the hash that binds a channel to it.
//!
//! Nothing here decides about trust: rustls has verified the chain, or was told not to.

use std::net::IpAddr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::der::{self, Reader};

/// The parts of an X.509 certificate that authentication asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificate {
    /// The subject's last common name, as PostgreSQL and PgBouncer take it.
    pub common_name: Option<String>,
    /// The whole subject, most significant part last, `CN=app,O=Example`, as RFC 4514 writes it (without escapes
    /// beyond comma and backslash).
    pub subject: String,
    /// Subject alternative names of type dNSName.
    pub dns_names: Vec<String>,
    /// Subject alternative names of type iPAddress.
    pub ip_addresses: Vec<IpAddr>,
    /// Subject alternative names of type rfc822Name.
    pub email_addresses: Vec<String>,
    /// Seconds since the Unix epoch; the certificate holds from the first to the second, both included.
    pub valid_seconds: (i64, i64),
    /// Content octets of the object identifier of the algorithm it is signed with.
    signature_algorithm: Vec<u8>,
    /// For RSASSA-PSS the hash is a parameter; its identifier.
    pss_hash: Option<Vec<u8>>,
}

impl Certificate {
    /// Reads a certificate in DER. `None` when it is not one.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut certificate = Reader::new(der).enter(der::SEQUENCE)?;
        let mut body = certificate.enter(der::SEQUENCE)?;
        let mut algorithm = certificate.enter(der::SEQUENCE)?;
        let signature_algorithm = algorithm.take(der::OBJECT_IDENTIFIER)?.to_vec();
        let mut parsed =
            Self { signature_algorithm, pss_hash: pss_hash(&mut algorithm), ..Self::default() };

        body.take(der::context(0)); // version, absent in version 1
        body.take(der::INTEGER)?; // serial number
        body.take(der::SEQUENCE)?; // signature algorithm, again
        body.take(der::SEQUENCE)?; // issuer
        let mut validity = body.enter(der::SEQUENCE)?;
        parsed.valid_seconds = (time(&mut validity)?, time(&mut validity)?);
        parsed.read_subject(&mut body.enter(der::SEQUENCE)?)?;
        body.take(der::SEQUENCE)?; // public key
        while let Some((tag, contents)) = body.next() {
            if tag == der::context(3) {
                parsed.read_extensions(&mut Reader::new(contents).enter(der::SEQUENCE)?)?;
            }
        }
        Some(parsed)
    }

    fn read_subject(&mut self, subject: &mut Reader<'_>) -> Option<()> {
        let mut parts = Vec::new();
        while let Some(mut set) = subject.enter(der::SET) {
            while let Some(mut attribute) = set.enter(der::SEQUENCE) {
                let kind = attribute.take(der::OBJECT_IDENTIFIER)?;
                let (tag, contents) = attribute.next()?;
                let Some(value) = text(tag, contents) else { continue };
                let escaped = value.replace('\\', "\\\\").replace(',', "\\,");
                match attribute_name(kind) {
                    Some(name) => parts.push(format!("{name}={escaped}")),
                    None => parts.push(format!("{}={escaped}", dotted(kind))),
                }
                if kind == COMMON_NAME {
                    self.common_name = Some(value);
                }
            }
        }
        parts.reverse();
        self.subject = parts.join(",");
        Some(())
    }

    fn read_extensions(&mut self, extensions: &mut Reader<'_>) -> Option<()> {
        while let Some(mut extension) = extensions.enter(der::SEQUENCE) {
            let kind = extension.take(der::OBJECT_IDENTIFIER)?;
            extension.take(der::BOOLEAN); // critical, absent when false
            let value = extension.take(der::OCTET_STRING)?;
            if kind == SUBJECT_ALTERNATIVE_NAME {
                self.read_alternative_names(&mut Reader::new(value).enter(der::SEQUENCE)?);
            }
        }
        Some(())
    }

    /// GeneralName is a choice told by primitive context tags: 1 rfc822Name, 2 dNSName, 7 iPAddress.
    fn read_alternative_names(&mut self, names: &mut Reader<'_>) {
        while let Some((tag, contents)) = names.next() {
            match tag {
                0x81 => self.email_addresses.extend(text(der::IA5_STRING, contents)),
                0x82 => self.dns_names.extend(text(der::IA5_STRING, contents)),
                0x87 => self.ip_addresses.extend(ip_address(contents)),
                _ => {}
            }
        }
    }

    /// The `tls-server-end-point` channel binding (RFC 5929, 4.1) of the certificate with this DER: its hash by
    /// the hash of its signature algorithm, SHA-256 where that is MD5 or SHA-1. `None` where the signature
    /// algorithm has no single hash (Ed25519): the binding is undefined then.
    #[must_use]
    pub fn end_point_hash(&self, der: &[u8]) -> Option<Vec<u8>> {
        match self.signature_hash()? {
            Hash::Sha224 => Some(Sha224::digest(der).to_vec()),
            Hash::Sha256 => Some(Sha256::digest(der).to_vec()),
            Hash::Sha384 => Some(Sha384::digest(der).to_vec()),
            Hash::Sha512 => Some(Sha512::digest(der).to_vec()),
        }
    }

    fn signature_hash(&self) -> Option<Hash> {
        match self.signature_algorithm.split_last()? {
            // RFC 8017, A.2.4: 1.2.840.113549.1.1.x
            (10, PKCS1) => match self.pss_hash.as_deref() {
                None => Some(Hash::Sha256), // SHA-1 is the default, which RFC 5929 turns into SHA-256
                Some(identifier) => hash_of(identifier),
            },
            (4 | 5 | 11, PKCS1) => Some(Hash::Sha256), // md5, sha1, sha256
            (12, PKCS1) => Some(Hash::Sha384),
            (13, PKCS1) => Some(Hash::Sha512),
            (14, PKCS1) => Some(Hash::Sha224),
            // RFC 5758, 3.2: ecdsa-with-SHA1 is 1.2.840.10045.4.1, the others 1.2.840.10045.4.3.x
            (1, ECDSA) | (2, ECDSA_SHA2) => Some(Hash::Sha256),
            (1, ECDSA_SHA2) => Some(Hash::Sha224),
            (3, ECDSA_SHA2) => Some(Hash::Sha384),
            (4, ECDSA_SHA2) => Some(Hash::Sha512),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03]; // 2.5.4.3
const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11]; // 2.5.29.17
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const NIST_HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02]; // 2.16.840.1.101.3.4.2

fn hash_of(identifier: &[u8]) -> Option<Hash> {
    match identifier.split_last()? {
        (1, NIST_HASHES) => Some(Hash::Sha256),
        (2, NIST_HASHES) => Some(Hash::Sha384),
        (3, NIST_HASHES) => Some(Hash::Sha512),
        (4, NIST_HASHES) => Some(Hash::Sha224),
        // 1.3.14.3.2.26 is SHA-1.
        (0x1a, [0x2b, 0x0e, 0x03, 0x02]) => Some(Hash::Sha256),
        _ => None,
    }
}

/// The hash among the parameters of RSASSA-PSS: `SEQUENCE { [0] SEQUENCE { identifier ... } ... }`.
fn pss_hash(parameters: &mut Reader<'_>) -> Option<Vec<u8>> {
    let mut parameters = parameters.enter(der::SEQUENCE)?;
    let mut algorithm = parameters.enter(der::context(0))?.enter(der::SEQUENCE)?;
    algorithm.take(der::OBJECT_IDENTIFIER).map(<[u8]>::to_vec)
}

/// Short names of RFC 4514, 3, and the serial number and mail address that certificates use as well.
fn attribute_name(kind: &[u8]) -> Option<&'static str> {
    match kind {
        [0x55, 0x04, last] => match last {
            3 => Some("CN"),
            5 => Some("serialNumber"),
            6 => Some("C"),
            7 => Some("L"),
            8 => Some("ST"),
            9 => Some("street"),
            10 => Some("O"),
            11 => Some("OU"),
            _ => None,
        },
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, last] => match last {
            1 => Some("UID"),
            25 => Some("DC"),
            _ => None,
        },
        _ => None,
    }
}

/// An object identifier as people write it.
fn dotted(identifier: &[u8]) -> String {
    let mut arcs: Vec<String> = Vec::new();
    let mut arc = 0_u64;
    for byte in identifier {
        arc = arc << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if arcs.is_empty() {
            let first = (arc / 40).min(2);
            arcs.push(first.to_string());
            arc -= first * 40;
        }
        arcs.push(arc.to_string());
        arc = 0;
    }
    arcs.join(".")
}

/// A string of one of the types names come in. A zero byte is an old trick to end a name early in C: such a
/// name is none.
fn text(tag: u8, contents: &[u8]) -> Option<String> {
    let text = match tag {
        der::UTF8_STRING | der::PRINTABLE_STRING | der::IA5_STRING => {
            std::str::from_utf8(contents).ok()?.to_owned()
        }
        // Taken as Latin-1, as everyone does.
        der::TELETEX_STRING => contents.iter().map(|byte| char::from(*byte)).collect(),
        der::BMP_STRING => {
            let units = contents.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            char::decode_utf16(units).collect::<Result<String, _>>().ok()?
        }
        _ => return None,
    };
    (!text.contains('\0')).then_some(text)
}

fn ip_address(contents: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(contents)
        .map(IpAddr::from)
        .or_else(|_not_four| <[u8; 16]>::try_from(contents).map(IpAddr::from))
        .ok()
}

/// UTCTime `YYMMDDhhmmssZ` (years 1950 to 2049) or GeneralizedTime `YYYYMMDDhhmmssZ`: RFC 5280, 4.1.2.5.
fn time(fields: &mut Reader<'_>) -> Option<i64> {
    let (tag, contents) = fields.next()?;
    let (year, rest) = match tag {
        der::UTC_TIME => {
            let (year, rest) = digits(contents, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        der::GENERALIZED_TIME => digits(contents, 4)?,
        _ => return None,
    };
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    if rest != b"Z" || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn digits(bytes: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = bytes.split_at_checked(count)?;
    let digits = number.iter().map(|byte| byte.is_ascii_digit().then(|| i64::from(byte - b'0')));
    let number = digits.into_iter().try_fold(0, |number, digit| Some(number * 10 + digit?))?;
    Some((number, rest))
}

/// Days from 1970-01-01 in the Gregorian calendar, the year counted from March so that the leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P384_SHA384,
        PKCS_ED25519, SanType, SignatureAlgorithm,
    };

    use super::*;

    fn make(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut parameters = CertificateParams::new(vec![
            "db.example.org".to_owned(),
            "*.shop.example.org".to_owned(),
            "10.1.2.3".to_owned(),
            "::1".to_owned(),
        ])
        .unwrap();
        parameters
            .subject_alt_names
            .push(SanType::Rfc822Name("ops@example.org".try_into().unwrap()));
        let mut name = DistinguishedName::new();
        name.push(DnType::CountryName, "CH");
        name.push(DnType::OrganizationName, "Example, Inc");
        name.push(DnType::CommonName, "app");
        parameters.distinguished_name = name;
        parameters.not_before = rcgen::date_time_ymd(2024, 2, 29);
        parameters.not_after = rcgen::date_time_ymd(2051, 1, 1);
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn reads_names_and_validity() {
        let parsed = Certificate::parse(&make(&PKCS_ECDSA_P384_SHA384)).unwrap();
        assert_eq!(parsed.common_name.as_deref(), Some("app"));
        assert_eq!(parsed.subject, "CN=app,O=Example\\, Inc,C=CH");
        assert_eq!(parsed.dns_names, ["db.example.org", "*.shop.example.org"]);
        assert_eq!(
            parsed.ip_addresses,
            ["10.1.2.3".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
        assert_eq!(parsed.email_addresses, ["ops@example.org"]);
        // `date -u -d 2024-02-29 +%s` and 2051-01-01, which takes the other time format.
        assert_eq!(parsed.valid_seconds, (1_709_164_800, 2_556_144_000));
    }

    #[test]
    fn the_channel_binding_hash_follows_the_signature_algorithm() {
        let binding = |der: &[u8]| Certificate::parse(der).unwrap().end_point_hash(der);
        let der = make(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(binding(&der), Some(Sha256::digest(&der).to_vec()));
        let der = make(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(binding(&der), Some(Sha384::digest(&der).to_vec()));
        let der = make(&PKCS_ED25519);
        assert_eq!(binding(&der), None);
    }

    #[test]
    fn a_damaged_certificate_is_refused_and_never_a_crash() {
        let der = make(&rcgen::PKCS_ECDSA_P256_SHA256);
        for length in 0..der.len() {
            assert_eq!(Certificate::parse(&der[..length]), None, "cut at {length}");
        }
        for position in 0..der.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = der.clone();
                damaged[position] ^= flip;
                drop(Certificate::parse(&damaged));
            }
        }
    }

    #[test]
    fn a_name_with_a_zero_byte_is_none() {
        assert_eq!(text(der::UTF8_STRING, b"admin\0.example.org"), None);
        assert_eq!(text(der::BMP_STRING, &[0, b'a', 0x20, 0xac]), Some("a\u{20ac}".to_owned()));
        assert_eq!(text(der::TELETEX_STRING, &[0xe9]), Some("\u{e9}".to_owned()));
    }

    #[test]
    fn identifiers_are_written_with_dots() {
        assert_eq!(dotted(NIST_HASHES), "2.16.840.1.101.3.4.2");
        assert_eq!(dotted(COMMON_NAME), "2.5.4.3");
    }
}
