//! Reading whole, short messages one after the other, as during log-in.

use std::io;

use pg::wire::startup::{self, Opening};
use pg::wire::stream::HEADER_BYTES;
use runtime::buffer::Chunk;
use runtime::tls::Transport;

use crate::limits::HANDSHAKE_BYTES_MAX;

/// Bytes received and not yet read.
#[derive(Default)]
pub(crate) struct Handshake {
    bytes: Vec<u8>,
}

/// A message of the other side.
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

/// Why the other side cannot be talked to any longer.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    Io(io::Error),
    /// It closed the connection.
    Closed,
    /// Its message is longer than any that belongs here, or none.
    Malformed,
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HandshakeError::Io(error) => error.fmt(f),
            HandshakeError::Closed => f.write_str("connection closed unexpectedly"),
            HandshakeError::Malformed => f.write_str("invalid message"),
        }
    }
}

impl Handshake {
    /// The next message.
    pub(crate) async fn message(&mut self, stream: &Transport) -> Result<Message, HandshakeError> {
        loop {
            if let Some((kind, length)) = self.header()? {
                let end = length + 1;
                if self.bytes.len() >= end {
                    let body = self.bytes[HEADER_BYTES..end].to_vec();
                    self.bytes.drain(..end);
                    return Ok(Message { kind, body });
                }
            }
            self.more(stream).await?;
        }
    }

    /// Kind and length word of the next message, if they have arrived.
    fn header(&self) -> Result<Option<(u8, usize)>, HandshakeError> {
        let Some([kind, length @ ..]) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if (4..=HANDSHAKE_BYTES_MAX).contains(&length) {
            Ok(Some((*kind, length)))
        } else {
            Err(HandshakeError::Malformed)
        }
    }

    /// Waits until the bytes received begin with a whole packet as connections open with. The caller
    /// looks at it in [`Handshake::bytes`].
    pub(crate) async fn opening(&mut self, stream: &Transport) -> Result<(), HandshakeError> {
        loop {
            match startup::open(&self.bytes) {
                Ok(Opening::More(_)) => self.more(stream).await?,
                _ => return Ok(()),
            }
        }
    }

    /// One byte, as the answer to SSLRequest is.
    pub(crate) async fn byte(&mut self, stream: &Transport) -> Result<u8, HandshakeError> {
        while self.bytes.is_empty() {
            self.more(stream).await?;
        }
        Ok(self.bytes.remove(0))
    }

    async fn more(&mut self, stream: &Transport) -> Result<(), HandshakeError> {
        let chunk = stream.recv().await.map_err(HandshakeError::Io)?;
        if chunk.is_empty() {
            return Err(HandshakeError::Closed);
        }
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops what has been read.
    pub(crate) fn consume(&mut self, count: usize) {
        self.bytes.drain(..count);
    }

    /// What has been received beyond the last message read.
    pub(crate) fn into_rest(self) -> Option<Chunk> {
        (!self.bytes.is_empty()).then(|| Chunk::copy_of(&self.bytes))
    }
}
