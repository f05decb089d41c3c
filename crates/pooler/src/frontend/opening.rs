//! What a connection opens with: cancel requests, encryption, the start-up packet.

use pg::sqlstate::SqlState;
use pg::wire::backend::write;
use pg::wire::startup::{self, Opening, Packet, ProtocolVersion, Replication, Startup};
use runtime::tls::{ALPN_POSTGRESQL, Transport};

use super::{Arrival, Refused, fatal};
use crate::cancel::{self, CancelTarget};
use crate::limits::{NEGOTIATIONS_MAX, STARTUP_PARAMETERS_MAX};
use crate::parameters;

/// What a start-up packet asks for.
pub(super) struct Wanted {
    pub(super) version: ProtocolVersion,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) replication: Replication,
    pub(super) parameters: Vec<(String, String)>,
}

impl Arrival<'_> {
    /// Reads packets up to the one that says what the connection is for; `None` if it was only for
    /// canceling.
    pub(super) async fn opening(&mut self) -> Result<Option<Wanted>, Refused> {
        for _ in 0..=NEGOTIATIONS_MAX {
            self.handshake
                .opening(self.stream.as_ref().expect("no handshake is under way"))
                .await?;
            let (packet, bytes) = match startup::open(self.handshake.bytes())? {
                Opening::Packet(packet, bytes) => (packet, bytes),
                Opening::DirectTls => {
                    self.start_tls(true).await?;
                    continue;
                }
                Opening::More(_) => return Err(Refused::Silently),
            };
            if !packet.may_be_followed() && self.handshake.bytes().len() > bytes {
                return Err(fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    "received unencrypted data after a request for encryption",
                ));
            }
            match packet {
                Packet::Ssl => {
                    self.handshake.consume(bytes);
                    if !self.offers_tls() {
                        self.stream().queue(b"N");
                    } else {
                        self.stream().queue(b"S");
                        self.start_tls(false).await?;
                    }
                }
                Packet::Gss => {
                    self.handshake.consume(bytes);
                    self.stream().queue(b"N");
                }
                Packet::Cancel(request) => {
                    let (process_id, key) = (request.process_id, request.key.to_vec());
                    cancel::dispatch(self.router, CancelTarget { process_id, key });
                    return Ok(None);
                }
                Packet::Startup(startup) => {
                    let wanted = self.read_startup(&startup)?;
                    self.handshake.consume(bytes);
                    return Ok(Some(wanted));
                }
            }
        }
        Err(Refused::Silently)
    }

    fn offers_tls(&self) -> bool {
        let plain = matches!(self.stream, Some(Transport::Plain(_)));
        plain && !self.stream().stream().is_unix() && self.router.tls.borrow().clients.is_some()
    }

    /// Goes on encrypted. A direct handshake, without a request before, must name the protocol, so
    /// that one for another protocol cannot be relayed to us.
    async fn start_tls(&mut self, direct: bool) -> Result<(), Refused> {
        let Some(tls) = self.router.tls.borrow().clients.clone() else {
            return Err(Refused::Silently);
        };
        let Some(Transport::Plain(stream)) = self.stream.take() else {
            return Err(Refused::Silently);
        };
        if let Some(hello) = std::mem::take(&mut self.handshake).into_rest() {
            stream.unrecv(hello);
        }
        let stream = match tls.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::info!(address = %self.address, %error, "TLS handshake failed");
                return Err(Refused::Silently);
            }
        };
        if direct && stream.alpn().as_deref() != Some(ALPN_POSTGRESQL) {
            return Err(Refused::Silently);
        }
        self.stream = Some(Transport::Tls(stream));
        Ok(())
    }

    fn read_startup(&self, startup: &Startup<'_>) -> Result<Wanted, Refused> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = text(startup.user()?);
        let database = text(startup.database()?);
        let replication = startup.replication()?;
        if startup.needs_negotiation(ProtocolVersion::LATEST) {
            let mut out = Vec::new();
            write::negotiate_protocol_version(
                &mut out,
                startup.version_to_speak(ProtocolVersion::LATEST),
                startup.protocol_options(),
            );
            self.stream().queue(&out);
        }
        let settings = &self.rules.settings;
        if settings.client_tls_sslmode.is_required()
            && !self.is_tls()
            && !self.stream().stream().is_unix()
        {
            return Err(fatal(
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "SSL connection is required",
            ));
        }
        let parameters = self.read_parameters(startup)?;
        let version = startup.version_to_speak(ProtocolVersion::LATEST);
        Ok(Wanted { version, user, database, replication, parameters })
    }

    /// Session parameters that the client asks for, checked.
    fn read_parameters(&self, startup: &Startup<'_>) -> Result<Vec<(String, String)>, Refused> {
        let ignored = &self.rules.settings.ignore_startup_parameters;
        let is_ignored = |name: &str| ignored.iter().any(|other| other.eq_ignore_ascii_case(name));
        let mut found = Vec::new();
        for (name, value) in startup.parameters() {
            let name = String::from_utf8_lossy(name);
            match &*name {
                "user" | "database" | "replication" => {}
                name if name.starts_with("_pq_.") || is_ignored(name) => {}
                "options" => {
                    let text = String::from_utf8_lossy(value);
                    let Some(options) = parameters::parse_options(&text) else {
                        return Err(fatal(
                            SqlState::PROTOCOL_VIOLATION,
                            "unsupported startup parameter in options",
                        ));
                    };
                    found.extend(options.into_iter().filter(|(name, _)| !is_ignored(name)));
                }
                name => found.push((name.to_owned(), String::from_utf8_lossy(value).into_owned())),
            }
        }
        let bad = |name: &str| !parameters::is_parameter_name(name);
        if let Some((name, _)) = found.iter().find(|(name, _)| bad(name)) {
            let message = format!("unsupported startup parameter: {name:?}");
            return Err(fatal(SqlState::PROTOCOL_VIOLATION, message));
        }
        if found.len() > STARTUP_PARAMETERS_MAX {
            return Err(fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many startup parameters"));
        }
        Ok(found)
    }
}
