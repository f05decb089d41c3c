//! TLS over our own streams.

mod certificate;
mod config;
mod der;
mod session;
mod verify;

pub use certificate::Certificate;
pub use config::{
    ALPN_POSTGRESQL, ClientCertificates, ClientTls, ClientTlsOptions, Identity, Pem, ServerTls,
    ServerTlsOptions, TlsConfigError, Versions,
};
pub use verify::{SslMode, UnknownSslMode};

#[cfg(test)]
mod test_certificates;
