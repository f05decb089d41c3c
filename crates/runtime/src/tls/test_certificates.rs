//! Certificates for tests, made on the spot.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use super::{Identity, Pem};

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate authority that lives as long as a test.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(parameters, key).unwrap() }
    }

    pub(crate) fn pem(&self) -> Pem {
        Pem { name: "authority.crt".to_owned(), text: self.issuer.pem().into_bytes() }
    }

    /// The authority's certificate used as a server's.
    pub(crate) fn own_identity(&self) -> Identity {
        let key = self.issuer.key().serialize_pem().into_bytes();
        let key = Pem { name: "authority.key".to_owned(), text: key };
        Identity { certificates: self.pem(), key }
    }

    /// A certificate for one DNS name, which is its common name as well.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.issue(CertificateParams::new(vec![name.to_owned()]).unwrap(), name)
    }

    /// A certificate without alternative names.
    pub(crate) fn identity_by_common_name(&self, name: &str) -> Identity {
        self.issue(CertificateParams::new(Vec::new()).unwrap(), name)
    }

    fn issue(&self, mut parameters: CertificateParams, common_name: &str) -> Identity {
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificates: Pem { name: "end.crt".to_owned(), text: certificate.pem().into_bytes() },
            key: Pem { name: "end.key".to_owned(), text: key.serialize_pem().into_bytes() },
        }
    }
}
