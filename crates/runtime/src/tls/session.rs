//! TLS without I/O: bytes from the peer in, plain text and bytes for the peer out.
//!
//! Built on rustls' unbuffered connections, which keep no buffers of their own: an idle connection costs its keys
//! and little more. They do remember places in the bytes they were shown and did not consume, so those bytes stay here,
//! in `pending`, and are shown again with every call, whatever it is about. After an error rustls is not called again.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig};

/// A record carries at most 2^14 bytes (RFC 8446, 5.1) and adds at most a header, a content type or explicit nonce,
/// and a tag.
const RECORD_PLAIN_BYTES_MAX: usize = 1 << 14;
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 8 + 16 + 1;
/// rustls' names of the suites of TLS 1.3, and those of RFC 8446, B.4.
const IANA_NAMES: [(&str, &str); 3] = [
    ("TLS13_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    ("TLS13_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    ("TLS13_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
];
/// Level and description (RFC 8446, 6).
const ALERT_BYTES: usize = 2;

/// One connection's state machine.
pub(super) struct Session {
    side: Side,
    /// The beginning of something whose rest has not arrived. No memory while there is none.
    pending: Vec<u8>,
    failed: Option<Error>,
    peer_closed: bool,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Where bytes that come out of a session go. Reused from call to call, so that a turn allocates nothing.
#[derive(Default)]
pub(super) struct Output {
    /// For the peer, to be sent as they are.
    pub(super) outgoing: Vec<u8>,
    /// For us.
    pub(super) plain: Vec<u8>,
}

/// What to write once the state machine allows it.
#[derive(Clone, Copy)]
enum Write<'a> {
    Data(&'a [u8]),
    CloseNotify,
}

/// What one call to rustls led to.
enum Step {
    /// There may be more to do with the bytes at hand.
    Again,
    /// All that can be done without further bytes is done.
    NeedsBytes,
    /// What was to be written has been.
    Written,
    PeerClosed,
}

impl Session {
    fn new(side: Side) -> Self {
        Self { side, pending: Vec::new(), failed: None, peer_closed: false }
    }

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let side = Side::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self::new(side))
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let side = Side::Client(UnbufferedClientConnection::new(config, name)?);
        Ok(Self::new(side))
    }

    fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    pub(super) fn version(&self) -> &'static str {
        match self.state().protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        }
    }

    pub(super) fn cipher(&self) -> &'static str {
        let suite = self.state().negotiated_cipher_suite();
        let name = suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
        // TLS 1.3 suites are called TLS13_... there.
        IANA_NAMES.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, iana)| iana)
    }

    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        self.state().alpn_protocol().map(<[u8]>::to_vec)
    }

    pub(super) fn peer_certificate_der(&self) -> Option<Vec<u8>> {
        self.state().peer_certificates()?.first().map(|der| der.to_vec())
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether the peer has said that no more will come (close_notify).
    pub(super) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Why the connection cannot go on, if so.
    pub(super) fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Takes in what the peer sent; `incoming` is worked on in place.
    ///
    /// On an error `output.outgoing` ends with the alert that tells the peer, and `output.plain` with what was good
    /// before it. The error stays.
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        output: &mut Output,
    ) -> Result<(), Error> {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(incoming);
            return self.drive_pending(None, output);
        }
        let consumed = self.drive(incoming, None, output)?;
        let rest = incoming.get(consumed..).unwrap_or_default();
        if !rest.is_empty() {
            self.pending = rest.to_vec();
        }
        Ok(())
    }

    /// Encrypts `plain` as one or more records at the end of `output.outgoing`. The handshake must be over.
    pub(super) fn encrypt(&mut self, plain: &[u8], output: &mut Output) -> Result<(), Error> {
        if plain.is_empty() {
            return Ok(());
        }
        self.drive_pending(Some(Write::Data(plain)), output)
    }

    /// Appends the close_notify that says that we will send no more.
    pub(super) fn close(&mut self, output: &mut Output) -> Result<(), Error> {
        self.drive_pending(Some(Write::CloseNotify), output)
    }

    fn drive_pending(
        &mut self,
        write: Option<Write<'_>>,
        output: &mut Output,
    ) -> Result<(), Error> {
        let mut pending = std::mem::take(&mut self.pending);
        let consumed = self.drive(&mut pending, write, output)?;
        if consumed < pending.len() {
            pending.drain(..consumed);
            self.pending = pending;
        }
        Ok(())
    }

    /// How many bytes of `incoming` are done with.
    fn drive(
        &mut self,
        incoming: &mut [u8],
        write: Option<Write<'_>>,
        output: &mut Output,
    ) -> Result<usize, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut consumed = 0;
        let error = loop {
            let rest = incoming.get_mut(consumed..).unwrap_or_default();
            let (discard, step) = self.step(rest, write, output);
            consumed += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::NeedsBytes) if write.is_some() => break Error::HandshakeNotComplete,
                Ok(Step::NeedsBytes | Step::Written) => return Ok(consumed),
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Err(error) => break error,
            }
        };
        self.failed = Some(error.clone());
        // What is left to send, the alert last, is handed out before the bytes are looked at again, which must not
        // happen: rustls would send a second alert and take that for a mistake of its own.
        while self.state().wants_write() {
            let (_, step) = self.step(&mut [], None, output);
            if step.is_err() {
                break;
            }
        }
        Err(error)
    }

    fn step(
        &mut self,
        incoming: &mut [u8],
        write: Option<Write<'_>>,
        output: &mut Output,
    ) -> (usize, Result<Step, Error>) {
        match &mut self.side {
            Side::Server(connection) => {
                advance(connection.process_tls_records(incoming), write, output)
            }
            Side::Client(connection) => {
                advance(connection.process_tls_records(incoming), write, output)
            }
        }
    }
}

/// Handles one state; how many bytes to discard and what comes next.
fn advance<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    write: Option<Write<'_>>,
    output: &mut Output,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut result = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        output.plain.extend_from_slice(record.payload);
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            result
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            append(&mut output.outgoing, 0, |space| match data.encode(space) {
                Ok(written) => Ok(Ok(written)),
                Err(EncodeError::InsufficientSize(needed)) => Err(needed),
                Err(EncodeError::AlreadyEncoded) => Ok(Ok(0)),
            })
            .map(|()| Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // The caller sends everything in `outgoing` before it waits for anything.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match write {
            None => Ok(Step::NeedsBytes),
            Some(write) => {
                let room = match write {
                    Write::Data(plain) => {
                        let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
                        plain.len() + records * RECORD_OVERHEAD_BYTES_MAX
                    }
                    Write::CloseNotify => RECORD_OVERHEAD_BYTES_MAX + ALERT_BYTES,
                };
                append(&mut output.outgoing, room, |space| {
                    let written = match write {
                        Write::Data(plain) => traffic.encrypt(plain, space),
                        Write::CloseNotify => traffic.queue_close_notify(space),
                    };
                    match written {
                        Ok(written) => Ok(Ok(written)),
                        Err(EncryptError::InsufficientSize(needed)) => Err(needed),
                        Err(EncryptError::EncryptExhausted) => Ok(Err(Error::EncryptError)),
                    }
                })
                .map(|()| Step::Written)
            }
        },
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) if write.is_some() => Ok(Step::Written),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(Step::NeedsBytes),
        Ok(_early_data_which_is_off) => {
            Err(Error::General("unexpected state of the TLS connection".to_owned()))
        }
    };
    (discard, step)
}

/// Lets `fill` write into the space behind the end of `target`, first with `room` bytes and then, if it asks for more,
/// with what it asks for.
fn append(
    target: &mut Vec<u8>,
    room: usize,
    mut fill: impl FnMut(&mut [u8]) -> Result<Result<usize, Error>, InsufficientSizeError>,
) -> Result<(), Error> {
    let start = target.len();
    let mut room = room;
    loop {
        target.resize(start + room, 0);
        match fill(target.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                let written = written.inspect_err(|_| target.truncate(start))?;
                target.truncate(start + written);
                return Ok(());
            }
            Err(InsufficientSizeError { required_size }) if required_size > room => {
                room = required_size;
            }
            Err(_) => {
                target.truncate(start);
                return Err(Error::General("TLS record does not fit its own size".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
