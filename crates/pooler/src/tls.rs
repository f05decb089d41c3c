//! TLS configurations made from the settings: for clients, and towards servers.

use std::path::Path;
use std::sync::Arc;

use runtime::fs::blocking;
use runtime::tls::{
    ClientCertificates, ClientTls, ClientTlsOptions, Identity, Pem, ServerTls, ServerTlsOptions,
    TlsConfigError, Versions,
};
use rustls::crypto::CryptoProvider;

use crate::settings::{Settings, SslMode, TlsProtocols};

/// What the settings say about TLS, loaded.
pub(crate) struct TlsConfigs {
    /// `None`: TLS is not offered to clients.
    pub(crate) clients: Option<ServerTls>,
    /// `None`: not asked of servers.
    pub(crate) servers: Option<ClientTls>,
}

impl TlsConfigs {
    /// Reads the files that the settings name.
    pub(crate) fn load(
        settings: &Settings,
        provider: &Arc<CryptoProvider>,
    ) -> Result<TlsConfigs, TlsConfigError> {
        Ok(TlsConfigs {
            clients: for_clients(settings, provider)?,
            servers: for_servers(settings, provider)?,
        })
    }
}

fn for_clients(
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ServerTls>, TlsConfigError> {
    let files = (&settings.client_tls_cert_file, &settings.client_tls_key_file);
    let (Some(certificates), Some(key)) = files else { return Ok(None) };
    if settings.client_tls_sslmode == SslMode::Disable {
        return Ok(None);
    }
    let identity = Identity { certificates: read(certificates)?, key: read(key)? };
    let mut options = ServerTlsOptions::new(identity);
    options.versions = versions(settings.client_tls_protocols);
    if let Some(authorities) = &settings.client_tls_ca_file {
        let authorities = read(authorities)?;
        options.client_certificates = if settings.client_tls_sslmode.verifies() {
            ClientCertificates::Required(authorities)
        } else {
            ClientCertificates::Optional(authorities)
        };
    }
    ServerTls::new(&options, Arc::clone(provider)).map(Some)
}

fn for_servers(
    settings: &Settings,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientTls>, TlsConfigError> {
    let mode = match settings.server_tls_sslmode {
        SslMode::Disable => return Ok(None),
        // libpq would try without TLS first; PgBouncer (`server.c`, every mode but disable) does not.
        SslMode::Allow | SslMode::Prefer => runtime::tls::SslMode::Prefer,
        SslMode::Require => runtime::tls::SslMode::Require,
        SslMode::VerifyCa => runtime::tls::SslMode::VerifyCa,
        SslMode::VerifyFull => runtime::tls::SslMode::VerifyFull,
    };
    let mut options = ClientTlsOptions::new(mode);
    options.versions = versions(settings.server_tls_protocols);
    options.authorities =
        settings.server_tls_ca_file.as_ref().map(|path| read(path)).transpose()?;
    if let (Some(certificates), Some(key)) =
        (&settings.server_tls_cert_file, &settings.server_tls_key_file)
    {
        options.identity = Some(Identity { certificates: read(certificates)?, key: read(key)? });
    }
    ClientTls::new(&options, Arc::clone(provider)).map(Some)
}

const fn versions(protocols: TlsProtocols) -> Versions {
    match protocols {
        TlsProtocols::Secure => Versions::All,
        TlsProtocols::Tls12 => Versions::Tls12,
        TlsProtocols::Tls13 => Versions::Tls13,
    }
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
