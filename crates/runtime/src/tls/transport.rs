//! A connection that may or may not be encrypted, used the same way.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use super::certificate::Certificate;
use super::stream::{DetachedTls, TlsStream};
use crate::buffer::Chunk;
use crate::net::{Detached, Stream};

/// A connection of this core. See [`Stream`] for what its methods promise.
#[derive(Debug)]
pub enum Transport {
    /// As it is.
    Plain(Stream),
    /// Encrypted. Boxed, so that a plain connection does not pay for it.
    Tls(Box<TlsStream>),
}

/// Hands a call to whichever it is.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl Transport {
    /// The next bytes; an empty chunk is the end.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        either!(self, stream => stream.poll_recv(cx))
    }

    /// As [`poll_recv`](Self::poll_recv), waiting.
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Bytes that are here already; `None` when there are none for now.
    pub fn try_recv(&self) -> Option<io::Result<Chunk>> {
        either!(self, stream => stream.try_recv())
    }

    /// Puts the unread rest of a chunk back, to be received again first.
    pub fn unrecv(&self, chunk: Chunk) {
        either!(self, stream => stream.unrecv(chunk));
    }

    /// Appends to the send queue; never waits, never fails.
    pub fn queue(&self, bytes: &[u8]) {
        either!(self, stream => stream.queue(bytes));
    }

    /// Sends what is queued now, instead of at the end of the turn.
    pub fn flush_now(&self) {
        either!(self, stream => stream.flush_now());
    }

    /// Bytes queued and not yet taken by the system; encrypted ones where it is encrypted.
    #[must_use]
    pub fn queued(&self) -> usize {
        either!(self, stream => stream.queued())
    }

    /// Ready when fewer than `below` bytes are queued.
    ///
    /// # Errors
    /// When sending has failed for good.
    pub fn poll_writable(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_writable(cx, below))
    }

    /// Queues `bytes` and waits until the system has taken everything.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.queue(bytes);
        self.sent().await
    }

    /// Waits until the system has taken everything that is queued.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn sent(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx, 1)).await
    }

    /// Sends what is queued, then tells the peer that nothing more will come.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn shutdown(&self) -> io::Result<()> {
        either!(self, stream => stream.shutdown().await)
    }

    /// Closes at once: what is queued is thrown away.
    pub fn abort(self) {
        either!(self, stream => stream.abort());
    }

    /// Takes the connection off this core, to be attached to another.
    ///
    /// # Errors
    /// When it is broken already.
    pub fn detach(self) -> io::Result<DetachedTransport> {
        match self {
            Self::Plain(stream) => stream.detach().map(DetachedTransport::Plain),
            Self::Tls(stream) => {
                stream.detach().map(|detached| DetachedTransport::Tls(Box::new(detached)))
            }
        }
    }

    /// Takes a connection onto this core.
    ///
    /// # Errors
    /// When the kernel refuses to watch it.
    pub fn attach(detached: DetachedTransport) -> io::Result<Self> {
        match detached {
            DetachedTransport::Plain(detached) => Stream::attach(detached).map(Self::Plain),
            DetachedTransport::Tls(detached) => TlsStream::attach(*detached).map(Self::Tls),
        }
    }

    /// The connection itself or the one below, for its addresses, credentials and options.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.stream(),
        }
    }

    /// The encryption, if there is any.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls),
        }
    }

    /// What the peer's certificate says, if there is one.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Certificate> {
        self.tls().and_then(TlsStream::peer_certificate)
    }
}

impl From<Stream> for Transport {
    fn from(stream: Stream) -> Self {
        Self::Plain(stream)
    }
}

impl From<Box<TlsStream>> for Transport {
    fn from(stream: Box<TlsStream>) -> Self {
        Self::Tls(stream)
    }
}

/// A connection between cores.
#[derive(Debug)]
pub enum DetachedTransport {
    /// From [`Transport::Plain`].
    Plain(Detached),
    /// From [`Transport::Tls`].
    Tls(Box<DetachedTls>),
}
