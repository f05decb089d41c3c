//! One client's connection: start-up, log-in, then one command after another.

use std::rc::Rc;

use pg::sqlstate::SqlState;
use pg::wire::backend::{self, TransactionStatus};
use pg::wire::error::Report;
use pg::wire::frontend::{self, kind};
use pg::wire::replication::command::{self, Command};
use pg::wire::startup::{self, Opening, Packet, ProtocolVersion, Replication};
use runtime::clock;

use super::PageService;
use super::lists::Own;
use super::target::{MAIN, Target};
use crate::limits::{LOGIN_TIME_MAX, STREAM_REPLY_BYTES_MAX};
use crate::login::admit;
use crate::messages::Messages;

/// How a session ends.
pub(super) enum End {
    /// The client has left, or the connection broke.
    Closed,
    /// With this last word.
    Fatal(Report),
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> End {
        match error.kind() {
            std::io::ErrorKind::InvalidData => {
                End::Fatal(Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()))
            }
            _ => End::Closed,
        }
    }
}

/// One client's connection.
pub(super) struct Session<'m> {
    pub(super) service: Rc<PageService>,
    pub(super) messages: &'m mut Messages,
    pub(super) out: Vec<u8>,
    pub(super) target: Target,
    /// Names of its temporary replication slots.
    pub(super) slots: Vec<String>,
}

impl<'m> Session<'m> {
    /// Logs a client in and runs its commands.
    pub(super) async fn run(
        service: Rc<PageService>,
        messages: &'m mut Messages,
    ) -> Result<(), End> {
        let logging_in = log_in(&service, messages);
        let target = match clock::timeout(LOGIN_TIME_MAX, logging_in).await {
            Ok(logged_in) => logged_in?,
            Err(_elapsed) => return Err(End::Closed),
        };
        let mut session = Session { service, messages, out: Vec::new(), target, slots: Vec::new() };
        session.greet();
        loop {
            let message = session.messages.receive().await?;
            match message.kind {
                kind::QUERY => {
                    let body = session.messages.body(&message);
                    let sql =
                        frontend::query(body).map_err(|error| violation(error.to_string()))?;
                    let sql = String::from_utf8_lossy(sql).into_owned();
                    session.command(&sql).await?;
                }
                kind::TERMINATE => return Ok(()),
                other => {
                    return Err(violation(format!(
                        "message type {other} is not supported by the page service"
                    )));
                }
            }
        }
    }

    /// What follows a successful log-in, up to the first ReadyForQuery.
    fn greet(&mut self) {
        backend::write::authentication(&mut self.out, backend::Authentication::Ok);
        let version = match self.service.follower.timeline() {
            Some(timeline) => {
                pg::version::ServerVersion(timeline.manifest.server_version).to_string()
            }
            None => "15.0".to_owned(),
        };
        for (name, value) in [
            ("server_version", version.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("integer_datetimes", "on"),
        ] {
            backend::write::parameter_status(&mut self.out, name, value);
        }
        // Nothing here can be cancelled, but programs name their slots by this number.
        let number = self.service.next_session();
        backend::write::backend_key_data(&mut self.out, number, &[0; 4]);
        self.ready();
    }

    async fn command(&mut self, sql: &str) -> Result<(), End> {
        let result = match command::parse(sql) {
            Ok(Some(command)) => self.replication_command(command).await?,
            Ok(None) => match Own::parse(sql) {
                Some(Own::Relations { lsn }) => self.relations(lsn).await,
                Some(Own::Transactions { page, lsn }) => self.transactions(page, lsn).await,
                Some(Own::BootImage) => self.boot_image().await?,
                None => {
                    let message = "the page service runs replication commands only";
                    Err(Report::error(SqlState::SYNTAX_ERROR, message))
                }
            },
            Err(error) => Err(Report::error(SqlState::SYNTAX_ERROR, error.to_string())),
        };
        if let Err(report) = result {
            report.write(&mut self.out);
        }
        self.ready();
        Ok(self.messages.writable(STREAM_REPLY_BYTES_MAX).await?)
    }

    async fn replication_command(&mut self, command: Command) -> Result<Result<(), Report>, End> {
        Ok(match command {
            Command::IdentifySystem => self.identify_system(),
            Command::Show(name) => self.show(&name),
            Command::TimelineHistory(timeline) => self.timeline_history(timeline).await,
            Command::ReadSlot(name) => self.read_slot(&name),
            Command::CreateSlot(create) => self.create_slot(&create),
            Command::DropSlot { name, .. } => self.drop_slot(&name),
            Command::StartPhysical { slot, start, timeline } => {
                self.send_wal(slot.as_deref(), start, timeline).await?
            }
            Command::PageStream(options) => match self.begin_stream(&options) {
                Ok(()) => {
                    self.page_stream().await?;
                    backend::write::command_complete(&mut self.out, "PAGESTREAM");
                    Ok(())
                }
                Err(report) => Err(report),
            },
            Command::BaseBackup(options) => self.base_backup(&options).await?,
            Command::StartLogical { .. } => {
                let message = "the page service does not support this replication command";
                Err(Report::error(SqlState::FEATURE_NOT_SUPPORTED, message))
            }
        })
    }

    pub(super) fn ready(&mut self) {
        backend::write::ready_for_query(&mut self.out, TransactionStatus::Idle);
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        self.messages.queue(&self.out);
        self.out.clear();
    }
}

/// The start-up packet and what it asks for, up to the answer that the client is let in.
async fn log_in(service: &PageService, messages: &mut Messages) -> Result<Target, End> {
    let (user, target) = loop {
        let bytes = messages.receive_raw().await?;
        match startup::open(bytes) {
            Ok(Opening::More(_)) => {}
            Ok(Opening::DirectTls) => return Err(End::Closed),
            Ok(Opening::Packet(packet @ (Packet::Ssl | Packet::Gss), length)) => {
                if bytes.len() > length {
                    return Err(violation("received unencrypted data after SSL request"));
                }
                let encrypts = packet == Packet::Ssl && messages.tls().is_none();
                messages.take_raw(length);
                service.begin_tls(messages, encrypts).await?;
            }
            Ok(Opening::Packet(Packet::Cancel(_), _)) => return Err(End::Closed),
            Ok(Opening::Packet(Packet::Startup(packet), length)) => {
                check_startup(&packet)?;
                let invalid = |error: startup::StartupError| fatal(error.sqlstate(), error);
                let user = packet.user().map_err(invalid)?.to_vec();
                let target = Target::of(&packet, &user).map_err(End::Fatal)?;
                let mut out = Vec::new();
                if packet.needs_negotiation(ProtocolVersion::V3_0) {
                    let options = packet.protocol_options();
                    let version = ProtocolVersion::V3_0;
                    backend::write::negotiate_protocol_version(&mut out, version, options);
                }
                messages.queue(&out);
                messages.take_raw(length);
                break (user, target);
            }
            Err(error) if error.deserves_answer() => {
                return Err(fatal(error.sqlstate(), error));
            }
            Err(_not_postgres) => return Err(End::Closed),
        }
    };
    service.check_encrypted(messages).map_err(End::Fatal)?;
    match admit(messages, &user, &service.users, &service.installation_nonce).await {
        Ok(()) => {}
        Err(Some(report)) => return Err(End::Fatal(report)),
        Err(None) => return Err(End::Closed),
    }
    let is_known = match service.follower.branches() {
        Some(branches) => branches.get(&target.branch).is_some(),
        None => target.branch == MAIN,
    };
    if !is_known {
        let message = format!("branch \"{}\" does not exist", target.branch);
        return Err(fatal(SqlState::INVALID_CATALOG_NAME, message));
    }
    Ok(target)
}

pub(super) fn violation(message: impl Into<std::borrow::Cow<'static, str>>) -> End {
    End::Fatal(Report::fatal(SqlState::PROTOCOL_VIOLATION, message))
}

fn fatal(sqlstate: SqlState, error: impl std::fmt::Display) -> End {
    End::Fatal(Report::fatal(sqlstate, error.to_string()))
}

/// Only replication connections are let in: this is no database.
fn check_startup(packet: &startup::Startup<'_>) -> Result<(), End> {
    match packet.replication() {
        Ok(Replication::Physical | Replication::Logical) => Ok(()),
        Ok(Replication::None) => {
            let message = "the page service accepts replication connections only";
            let report = Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, message);
            Err(End::Fatal(report.with_hint("connect with replication=true")))
        }
        Err(error) => Err(fatal(error.sqlstate(), error)),
    }
}
