//! Messages of the Postgres protocol over one connection, either side of it.
//!
//! Invariant: what is buffered is at most one message of the largest allowed length and one read.

use std::future::poll_fn;
use std::io;
use std::ops::Range;

use runtime::net::Stream;
use runtime::tls::{ClientTls, ServerTls, TlsError, TlsStream, Transport};

/// Kind byte and length word.
const HEADER_BYTES: usize = 5;
/// Bytes already handed out are removed from the buffer once there are so many.
const COMPACT_BYTES: usize = 256 << 10;

/// A message received: its kind byte, and where its body is until the next one is received.
pub struct Message {
    pub kind: u8,
    body: Range<usize>,
}

/// A connection, with the bytes received and not yet handed out.
pub struct Messages {
    /// `None` only while, and after, a TLS handshake (that failed).
    stream: Option<Transport>,
    input: Vec<u8>,
    /// Bytes of `input` that were handed out.
    taken: usize,
    body_bytes_max: u32,
}

impl Messages {
    /// Messages with bodies longer than `body_bytes_max` are refused.
    pub fn new(stream: Stream, body_bytes_max: u32) -> Messages {
        let stream = Some(Transport::Plain(stream));
        Messages { stream, input: Vec::new(), taken: 0, body_bytes_max }
    }

    /// The encrypted connection, if it is one.
    pub fn tls(&self) -> Option<&TlsStream> {
        self.stream.as_ref().and_then(Transport::tls)
    }

    /// Goes on encrypted, as the side that was asked to. Nothing may be received and not yet taken.
    pub async fn accept_tls(&mut self, tls: &ServerTls) -> Result<(), TlsError> {
        if let Some(Transport::Plain(stream)) = self.stream.take() {
            self.stream = Some(Transport::Tls(tls.accept(stream).await?));
        }
        Ok(())
    }

    /// Goes on encrypted, as the side that asked.
    pub async fn connect_tls(&mut self, tls: &ClientTls, host: &str) -> Result<(), TlsError> {
        if let Some(Transport::Plain(stream)) = self.stream.take() {
            self.stream = Some(Transport::Tls(tls.connect(stream, host).await?));
        }
        Ok(())
    }

    /// Ends our side of the connection, once everything queued is sent.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.transport()?.shutdown().await
    }

    fn transport(&self) -> io::Result<&Transport> {
        self.stream.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The next message. Cancel-safe. An end of the stream is `UnexpectedEof`.
    pub async fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.frame()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// The next message if all of it has arrived.
    pub fn try_receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.frame()? {
                return Ok(Some(message));
            }
            let Some(chunk) = self.transport()?.try_recv() else { return Ok(None) };
            let chunk = chunk?;
            self.append(&chunk)?;
        }
    }

    /// The body of the message received last.
    pub fn body(&self, message: &Message) -> &[u8] {
        &self.input[message.body.clone()]
    }

    /// Waits until any bytes arrive; answers all that are not yet taken. For the start of a
    /// connection, where packets have no kind byte.
    pub async fn receive_raw(&mut self) -> io::Result<&[u8]> {
        self.fill().await?;
        Ok(&self.input[self.taken..])
    }

    /// Counts so many of the bytes answered by [`Messages::receive_raw`] as handed out.
    pub fn take_raw(&mut self, bytes: usize) {
        self.taken = (self.taken + bytes).min(self.input.len());
    }

    /// Bytes received and not yet handed out.
    pub fn raw(&self) -> &[u8] {
        &self.input[self.taken..]
    }

    /// Queues bytes and waits until they are on their way.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.transport()?.send(bytes).await
    }

    /// Queues bytes; they leave at the end of this turn.
    pub fn queue(&self, bytes: &[u8]) {
        if let Ok(stream) = self.transport() {
            stream.queue(bytes);
        }
    }

    /// Waits until fewer than `below` bytes are unsent.
    pub async fn writable(&self, below: usize) -> io::Result<()> {
        let stream = self.transport()?;
        poll_fn(|context| stream.poll_writable(context, below)).await
    }

    fn frame(&mut self) -> io::Result<Option<Message>> {
        let rest = &self.input[self.taken..];
        let Some((&[kind, a, b, c, d], _)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        let Some(body_bytes) = length.checked_sub(4).filter(|&bytes| bytes <= self.body_bytes_max)
        else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("invalid message length {length} (message type {kind})"),
            ));
        };
        let start = self.taken + HEADER_BYTES;
        let end = start + body_bytes as usize;
        if end > self.input.len() {
            return Ok(None);
        }
        self.taken = end;
        Ok(Some(Message { kind, body: start..end }))
    }

    async fn fill(&mut self) -> io::Result<()> {
        let chunk = self.transport()?.recv().await?;
        self.append(&chunk)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        if self.taken == self.input.len() {
            self.input.clear();
            self.taken = 0;
        } else if self.taken >= COMPACT_BYTES {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        self.input.extend_from_slice(bytes);
        Ok(())
    }
}
