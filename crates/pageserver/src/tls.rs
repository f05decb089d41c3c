//! TLS of the page service and towards Postgres, made from the settings.

use std::path::Path;
use std::sync::Arc;

use runtime::fs::blocking;
use runtime::net::Address;
use runtime::tls::{
    ClientCertificates, ClientTls, ClientTlsOptions, Identity, Pem, ServerTls, ServerTlsOptions,
    SslMode, TlsConfigError,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::error::Error;
use crate::settings::Settings;

/// How a connection of ours is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Encryption {
    pub mode: SslMode,
    /// `None` only if the mode is `disable`.
    pub tls: Option<ClientTls>,
}

impl Encryption {
    /// Of this mode, with a file of authorities if it checks certificates.
    pub fn new(mode: SslMode, authorities: Option<&Path>) -> Result<Encryption, Error> {
        if mode == SslMode::Disable {
            return Ok(Encryption::default());
        }
        let made = || {
            let mut options = ClientTlsOptions::new(mode);
            options.authorities = authorities.map(read).transpose()?;
            ClientTls::new(&options, provider())
        };
        let tls = made().map_err(|error| refused(&error))?;
        Ok(Encryption { mode, tls: Some(tls) })
    }

    /// Towards the Postgres that we follow.
    pub fn of(settings: &Settings) -> Result<Encryption, Error> {
        let mode = settings.server_tls_sslmode.parse().unwrap_or(SslMode::Require);
        Encryption::new(mode, existing(&settings.server_tls_ca_file))
    }

    /// Whether to ask this server for it: within the machine only if it is demanded, and never on a unix socket.
    pub fn is_asked_of(&self, address: &Address) -> bool {
        match address {
            Address::Tcp(address) if address.ip().is_loopback() => self.mode >= SslMode::Require,
            Address::Tcp(_) => self.mode >= SslMode::Prefer,
            _ => false,
        }
    }
}

/// What clients of the page service get; `None`: nothing.
pub fn of_service(settings: &Settings) -> Result<Option<ServerTls>, Error> {
    let files = (existing(&settings.tls_cert_file), existing(&settings.tls_key_file));
    let (Some(certificates), Some(key)) = files else { return Ok(None) };
    if settings.tls_sslmode == "disable" {
        return Ok(None);
    }
    let made = || {
        let identity = Identity { certificates: read(certificates)?, key: read(key)? };
        let mut options = ServerTlsOptions::new(identity);
        if let Some(authorities) = existing(&settings.tls_ca_file) {
            let authorities = read(authorities)?;
            options.client_certificates = match settings.tls_sslmode.as_str() {
                "verify-ca" => ClientCertificates::Required(authorities),
                _ => ClientCertificates::Optional(authorities),
            };
        }
        ServerTls::new(&options, provider())
    };
    made().map(Some).map_err(|error| refused(&error))
}

fn existing(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(path: &Path) -> Result<Pem, TlsConfigError> {
    let name = path.display().to_string();
    match blocking::read(path) {
        Ok(text) => Ok(Pem { name, text }),
        Err(error) => {
            Err(TlsConfigError::Pem { what: format!("\"{name}\""), reason: error.to_string() })
        }
    }
}

fn refused(error: &TlsConfigError) -> Error {
    Error::Refused { message: error.to_string(), hint: "see the TLS settings in howdah.toml" }
}
