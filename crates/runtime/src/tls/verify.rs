//! How a client checks a server's certificate: PostgreSQL's `sslmode` as rustls verifiers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;

/// PostgreSQL's client modes (libpq, 34.19.1). The first three differ in what the caller does when the other side
/// refuses; the certificate is not looked at below `verify-ca`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// Never encrypt.
    #[default]
    Disable,
    /// Encrypt only if the server refuses plain text.
    Allow,
    /// Encrypt if the server can.
    Prefer,
    /// Encrypt or fail.
    Require,
    /// As `require`, and the certificate must be signed by a known authority.
    VerifyCa,
    /// As `verify-ca`, and the certificate must be for the host asked for.
    VerifyFull,
}

impl SslMode {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Disable, "disable"),
        (Self::Allow, "allow"),
        (Self::Prefer, "prefer"),
        (Self::Require, "require"),
        (Self::VerifyCa, "verify-ca"),
        (Self::VerifyFull, "verify-full"),
    ];

    /// Whether the server's certificate is checked at all.
    #[must_use]
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(mode, _)| mode == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// Not one of the six names of [`SslMode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSslMode(pub String);

impl fmt::Display for UnknownSslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid sslmode value: \"{}\"", self.0)
    }
}

impl std::error::Error for UnknownSslMode {}

impl FromStr for SslMode {
    type Err = UnknownSslMode;

    fn from_str(name: &str) -> Result<Self, UnknownSslMode> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(mode, _)| *mode).ok_or_else(|| UnknownSslMode(name.to_owned()))
    }
}

/// Checks a server's certificate as far as is asked for, and always the handshake's signature, so that the other side
/// at least holds the key of the certificate it shows.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// `None` encrypts without knowing to whom: what `prefer` and `require` mean.
    pub(super) known: Option<KnownServer>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Checks the chain (`verify-ca`), and the name as well where asked for (`verify-full`).
#[derive(Debug)]
pub(super) struct KnownServer {
    pub(super) roots: RootCertStore,
    /// The same roots, whole: a server may show one of them itself.
    pub(super) root_certificates: Vec<CertificateDer<'static>>,
    pub(super) check_name: bool,
}

impl KnownServer {
    /// A self-signed certificate that is listed as trusted is accepted as it is, also where its extensions call it an
    /// authority (`openssl req -x509` does); OpenSSL does the same.
    fn is_listed(&self, end_entity: &CertificateDer<'_>) -> bool {
        self.root_certificates.iter().any(|root| root.as_ref() == end_entity.as_ref())
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        if self.is_listed(end_entity) {
            return check_validity(end_entity, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms.all,
        )
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(known) = &self.known {
            known.verify_chain(end_entity, intermediates, now, &self.algorithms)?;
            if known.check_name {
                check_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_validity(end_entity: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let certificate = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
    let (from, until) = certificate.valid_seconds;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < from {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > until {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The alternative names decide. Only where a certificate has none of the kind asked for does its common name count,
/// as in libpq (34.19.1) and RFC 6125, 6.4.4: many a PostgreSQL certificate has nothing else.
fn check_name(end_entity: &CertificateDer<'_>, server_name: &ServerName<'_>) -> Result<(), Error> {
    let mismatch = Error::from(CertificateError::NotValidForName);
    let certificate = Certificate::parse(end_entity).ok_or(CertificateError::BadEncoding)?;
    let common_name = certificate.common_name.as_deref();
    match server_name {
        ServerName::DnsName(name) if certificate.dns_names.is_empty() => {
            let matches = common_name.is_some_and(|pattern| name_matches(pattern, name.as_ref()));
            if matches { Ok(()) } else { Err(mismatch) }
        }
        ServerName::IpAddress(address) if certificate.ip_addresses.is_empty() => {
            let asked = IpAddr::from(*address);
            let named = common_name.and_then(|name| name.parse::<IpAddr>().ok());
            if named == Some(asked) { Ok(()) } else { Err(mismatch) }
        }
        name => verify_server_name(&ParsedCertificate::try_from(end_entity)?, name),
    }
}

/// A wildcard stands for one whole first label.
fn name_matches(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(domain) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && domain.contains('.') && rest.eq_ignore_ascii_case(domain)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_the_names_of_libpq_and_ascend_in_strength() {
        for (mode, name) in SslMode::NAMES {
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(mode.to_string(), name);
        }
        assert!("verify_full".parse::<SslMode>().is_err());
        assert!(!SslMode::Require.verifies());
        assert!(SslMode::VerifyCa.verifies());
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, host, expected) in [
            ("db.example.org", "DB.example.ORG", true),
            ("db.example.org", "db.example.org.", true),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", false),
            ("*.org", "example.org", false),
            ("*", "example", false),
            ("d*.example.org", "db.example.org", false),
            ("", "", true),
        ] {
            assert_eq!(name_matches(pattern, host), expected, "{pattern} for {host}");
        }
    }
}
