//! TLS without I/O: bytes from the peer in, plain text and bytes for the peer out.
//!
//! Built on rustls' unbuffered connections, which keep no buffers of their own: an idle connection costs its keys
//! and little more.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

/// A record carries at most 2^14 bytes (RFC 8446, 5.1) and adds at most a header, a content type or explicit nonce,
/// and a tag.
const RECORD_PLAIN_BYTES_MAX: usize = 1 << 14;
const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 8 + 16 + 1;
/// Level and description (RFC 8446, 6).
const ALERT_BYTES: usize = 2;

/// One connection's state machine.
pub(super) struct Session {
    side: Side,
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
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let side = Side::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self { side, peer_closed: false })
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let side = Side::Client(UnbufferedClientConnection::new(config, name)?);
        Ok(Self { side, peer_closed: false })
    }

    pub(super) fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether the peer has said that no more will come (close_notify).
    pub(super) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Works through `incoming`, which is changed in place; how many bytes of it are done with. The rest is the
    /// beginning of something incomplete and must come again, in front of what follows.
    ///
    /// On an error `output.outgoing` ends with the alert that tells the peer.
    pub(super) fn process(
        &mut self,
        incoming: &mut [u8],
        output: &mut Output,
    ) -> Result<usize, Error> {
        self.drive(incoming, None, output)
    }

    /// Encrypts `plain` as one or more records at the end of `output.outgoing`. The handshake must be over.
    pub(super) fn encrypt(&mut self, plain: &[u8], output: &mut Output) -> Result<(), Error> {
        if plain.is_empty() {
            return Ok(());
        }
        self.drive(&mut [], Some(Write::Data(plain)), output).map(|_consumed| ())
    }

    /// Appends the close_notify that says that we will send no more.
    pub(super) fn close(&mut self, output: &mut Output) -> Result<(), Error> {
        self.drive(&mut [], Some(Write::CloseNotify), output).map(|_consumed| ())
    }

    fn drive(
        &mut self,
        incoming: &mut [u8],
        write: Option<Write<'_>>,
        output: &mut Output,
    ) -> Result<usize, Error> {
        let mut consumed = 0;
        loop {
            let rest = incoming.get_mut(consumed..).unwrap_or_default();
            let (discard, step) = self.step(rest, write, output);
            consumed += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::NeedsBytes) if write.is_some() => return Err(Error::HandshakeNotComplete),
                Ok(Step::NeedsBytes | Step::Written) => return Ok(consumed),
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Err(error) => {
                    // The failed state machine still hands out its alert, then repeats the error.
                    while matches!(self.step(&mut [], None, output), (_, Ok(Step::Again))) {}
                    return Err(error);
                }
            }
        }
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
