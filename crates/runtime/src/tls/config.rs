//! From certificates, keys and modes to the rustls configurations of a server and of a client.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::certificate::Certificate;
use super::verify::{KnownServer, ServerVerifier, SslMode};

/// The protocol name of PostgreSQL in ALPN, which direct TLS requires (RFC 7301 registry).
pub const ALPN_POSTGRESQL: &[u8] = b"postgresql";

/// Why a TLS configuration cannot be used. `what` names the part it is about, as the caller named it.
#[derive(Debug)]
pub enum TlsConfigError {
    /// A PEM file holds nothing of the kind expected, or is damaged.
    Pem { what: String, reason: String },
    /// The parts do not fit together or are refused by the library.
    Refused { what: String, reason: String },
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { what, reason } => write!(f, "could not read {what}: {reason}"),
            Self::Refused { what, reason } => write!(f, "could not use {what}: {reason}"),
        }
    }
}

impl std::error::Error for TlsConfigError {}

/// A PEM text and what to call it in an error: the path it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// Shown in errors.
    pub name: String,
    /// The text itself.
    pub text: Vec<u8>,
}

impl fmt::Debug for Pem {
    /// Names it only: it may hold a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Pem {
    fn error(&self, reason: impl fmt::Display) -> TlsConfigError {
        TlsConfigError::Pem { what: format!("\"{}\"", self.name), reason: reason.to_string() }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.text)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(error))?;
        if certificates.is_empty() {
            return Err(self.error("it holds no certificate"));
        }
        Ok(certificates)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                self.error("it holds no private key (one with a pass phrase is not supported)")
            }
            other => self.error(other),
        })
    }
}

/// A certificate chain, end first, and the private key of its first certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// One or more certificates.
    pub certificates: Pem,
    /// PKCS #8, PKCS #1 or SEC 1, without a pass phrase.
    pub key: Pem,
}

/// Protocol versions to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versions {
    /// TLS 1.2 and 1.3.
    #[default]
    All,
    /// TLS 1.2 only.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl Versions {
    fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::All => vec![&TLS13, &TLS12],
            Self::Tls12 => vec![&TLS12],
            Self::Tls13 => vec![&TLS13],
        }
    }
}

/// Whether a server asks its clients for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// No.
    #[default]
    Ignored,
    /// Yes, but one may come without; one that comes must be signed by these authorities.
    Optional(Pem),
    /// Yes, signed by these authorities, or the handshake fails.
    Required(Pem),
}

/// What makes a [`ServerTls`].
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// What the server shows.
    pub identity: Identity,
    /// What it asks for.
    pub client_certificates: ClientCertificates,
    /// What it speaks.
    pub versions: Versions,
    /// Application protocols offered; a client that sends a list must share one, one without a list is served.
    pub alpn: Vec<Vec<u8>>,
}

impl ServerTlsOptions {
    /// The usual server: this identity, no client certificates, all versions, ALPN `postgresql`.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            client_certificates: ClientCertificates::Ignored,
            versions: Versions::All,
            alpn: vec![ALPN_POSTGRESQL.to_vec()],
        }
    }
}

/// The server side's configuration: shared by all cores, replaced as a whole on a reload.
#[derive(Clone)]
pub struct ServerTls {
    current: Arc<RwLock<Arc<Loaded>>>,
}

/// One generation of a server's configuration.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    pub(super) end_point_hash: Option<Arc<[u8]>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// Checks and loads the options. The provider does the cryptography and says which key exchanges and ciphers
    /// there are, in its order of preference.
    ///
    /// # Errors
    /// [`TlsConfigError`] naming the file at fault.
    pub fn new(
        options: &ServerTlsOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let loaded = Arc::new(load_server(options, provider)?);
        Ok(Self { current: Arc::new(RwLock::new(loaded)) })
    }

    /// Replaces what new connections get, for every clone of this value; on an error the old stays. Established
    /// connections go on with what they have.
    ///
    /// # Errors
    /// As [`ServerTls::new`].
    pub fn reload(
        &self,
        options: &ServerTlsOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<(), TlsConfigError> {
        let loaded = Arc::new(load_server(options, provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load_server(
    options: &ServerTlsOptions,
    provider: Arc<CryptoProvider>,
) -> Result<Loaded, TlsConfigError> {
    let Identity { certificates, key } = &options.identity;
    let refused = |error: &dyn fmt::Display| TlsConfigError::Refused {
        what: format!("certificate \"{}\" with key \"{}\"", certificates.name, key.name),
        reason: error.to_string(),
    };
    let chain = certificates.certificates()?;
    let end_point_hash =
        chain.first().and_then(|der| Certificate::parse(der)?.end_point_hash(der)).map(Arc::from);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&options.versions.list())
        .map_err(|error| refused(&error))?;
    let builder = match &options.client_certificates {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Optional(pem) | ClientCertificates::Required(pem) => {
            let roots = Arc::new(roots(pem, &pem.certificates()?)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match &options.client_certificates {
                ClientCertificates::Optional(_) => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            let verifier = verifier.build().map_err(|error| pem.error(error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key.private_key()?).map_err(|error| refused(&error))?;
    config.alpn_protocols.clone_from(&options.alpn);
    // libpq never resumes a session, and tickets cost every log-in bytes and memory; PostgreSQL sends none either.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // As PostgreSQL does (ssl_prefer_server_ciphers): the provider was given in the order we want.
    config.ignore_client_order = true;
    Ok(Loaded { config: Arc::new(config), end_point_hash })
}

/// What makes a [`ClientTls`].
#[derive(Debug, Clone)]
pub struct ClientTlsOptions {
    /// How the server is checked. The fallbacks of `allow` and `prefer` are the caller's.
    pub mode: SslMode,
    /// Authorities for `verify-ca` and `verify-full`, without which these are refused.
    pub authorities: Option<Pem>,
    /// What to show a server that asks.
    pub identity: Option<Identity>,
    /// What to speak.
    pub versions: Versions,
    /// Application protocols to ask for; `postgresql` is needed for direct TLS and harmless otherwise.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientTlsOptions {
    /// A client of this mode, with nothing to show, all versions, ALPN `postgresql`.
    #[must_use]
    pub fn new(mode: SslMode) -> Self {
        Self {
            mode,
            authorities: None,
            identity: None,
            versions: Versions::All,
            alpn: vec![ALPN_POSTGRESQL.to_vec()],
        }
    }
}

/// The client side's configuration: shared by all cores.
#[derive(Clone)]
pub struct ClientTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) mode: SslMode,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Checks and loads the options.
    ///
    /// # Errors
    /// [`TlsConfigError`] naming the file at fault.
    pub fn new(
        options: &ClientTlsOptions,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let refused = |what: &str, error: &dyn fmt::Display| TlsConfigError::Refused {
            what: what.to_owned(),
            reason: error.to_string(),
        };
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&options.versions.list())
            .map_err(|error| refused("the TLS versions", &error))?
            .dangerous();
        let known = if options.mode.verifies() {
            let Some(pem) = &options.authorities else {
                let mode = options.mode;
                return Err(refused(
                    &format!("sslmode \"{mode}\""),
                    &"it needs a file of certificate authorities",
                ));
            };
            let root_certificates = pem.certificates()?;
            let roots = roots(pem, &root_certificates)?;
            let check_name = options.mode == SslMode::VerifyFull;
            Some(KnownServer { roots, root_certificates, check_name })
        } else {
            None
        };
        let verifier = Arc::new(ServerVerifier { known, algorithms });
        let builder = builder.with_custom_certificate_verifier(verifier);
        let mut config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificates, key }) => builder
                .with_client_auth_cert(certificates.certificates()?, key.private_key()?)
                .map_err(|error| {
                    refused(
                        &format!("certificate \"{}\" with key \"{}\"", certificates.name, key.name),
                        &error,
                    )
                })?,
        };
        config.alpn_protocols.clone_from(&options.alpn);
        // PostgreSQL resumes no sessions, so there is nothing to remember.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), mode: options.mode })
    }

    /// The mode it was made with.
    #[must_use]
    pub fn mode(&self) -> SslMode {
        self.mode
    }
}

fn roots(
    pem: &Pem,
    certificates: &[CertificateDer<'static>],
) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| pem.error(error))?;
    }
    Ok(roots)
}
