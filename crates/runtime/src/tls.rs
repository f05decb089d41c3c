//! TLS over our own streams, by rustls without I/O of its own.
//!
//! Knows no PostgreSQL beyond the names of its modes and protocol: who asks for TLS when is the caller's business,
//! and so is the cryptography, which comes in as a rustls `CryptoProvider`.

mod certificate;
mod config;
mod der;
mod session;
mod stream;
mod tokio;
mod transport;
mod verify;

pub use certificate::Certificate;
pub use config::{
    ALPN_POSTGRESQL, ClientCertificates, ClientTls, ClientTlsOptions, Identity, Pem, ServerTls,
    ServerTlsOptions, TlsConfigError, Versions,
};
pub use stream::{DetachedTls, TlsError, TlsStream};
pub(crate) use tokio::TokioTls;
pub use transport::{DetachedTransport, Transport};
pub use verify::{SslMode, UnknownSslMode};

#[cfg(test)]
pub(crate) mod test_certificates;

#[cfg(test)]
mod tests;
