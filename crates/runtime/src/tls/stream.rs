//! A TLS connection on one of our streams.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};

use super::certificate::Certificate;
use super::config::{ClientTls, ServerTls};
use super::session::{Output, Session};
use super::verify::SslMode;
use crate::buffer::{self, Chunk};
use crate::executor::try_with_reactor;
use crate::limits::{TLS_ENCRYPT_BYTES_MAX, TLS_HANDSHAKE_BYTES_MAX, TLS_SCRATCH_BYTES_KEPT_MAX};
use crate::net::{Detached, Stream};

/// Why a connection could not be encrypted, or is no longer.
#[derive(Debug)]
pub enum TlsError {
    /// The connection below broke.
    Io(io::Error),
    /// The other side broke the protocol, or one side does not trust the other.
    Protocol(rustls::Error),
    /// The other side closed the connection during the handshake.
    Closed,
    /// The handshake took more than [`TLS_HANDSHAKE_BYTES_MAX`].
    HandshakeTooLong,
    /// The certificate would have to be for this name, which is none.
    InvalidName(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Protocol(error) => error.fmt(f),
            Self::Closed => f.write_str("the connection was closed during the TLS handshake"),
            Self::HandshakeTooLong => f.write_str("the TLS handshake was too long"),
            Self::InvalidName(name) => {
                write!(f, "\"{name}\" is neither a host name nor an address")
            }
        }
    }
}

impl std::error::Error for TlsError {}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Protocol(error)
    }
}

fn broken(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, TlsError::Protocol(error.clone()))
}

impl ServerTls {
    /// Answers a client's handshake. The time it may take is the caller's to bound; dropping the future closes the
    /// connection.
    ///
    /// # Errors
    /// [`TlsError`]; the client has been told by an alert where the protocol has one.
    pub async fn accept(&self, stream: Stream) -> Result<Box<TlsStream>, TlsError> {
        let current = self.current();
        let session = Session::server(Arc::clone(&current.config))?;
        let binding = current.end_point_hash.clone();
        drop(current);
        TlsStream::shake_hands(stream, session, binding).await
    }
}

impl ClientTls {
    /// Begins TLS with a server that agreed to it; `host` is the name or address it was asked for by, which is what
    /// its certificate has to be for under `verify-full`, and is told to it unless it is an address.
    ///
    /// # Errors
    /// [`TlsError`]; the server has been told by an alert where the protocol has one.
    pub async fn connect(&self, stream: Stream, host: &str) -> Result<Box<TlsStream>, TlsError> {
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            // Nothing depends on the name then; an address is not sent.
            Err(_invalid) if self.mode < SslMode::VerifyFull => {
                ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
            }
            Err(_invalid) => return Err(TlsError::InvalidName(host.to_owned())),
        };
        let session = Session::client(Arc::clone(&self.config), name)?;
        TlsStream::shake_hands(stream, session, None).await
    }
}

/// An encrypted connection of this core, used like a [`Stream`]: one owner, `&self` everywhere, any future may be
/// dropped at any time.
///
/// What is queued is encrypted at once and goes out with the turn. Dropping it tells the peer that this is the end.
pub struct TlsStream {
    /// `None` only after [`TlsStream::abort`] and the like have taken it.
    stream: Option<Stream>,
    /// `None` only then, too.
    state: RefCell<Option<State>>,
    /// The server's own certificate's, on the server side.
    own_end_point_hash: Option<Arc<[u8]>>,
}

struct State {
    session: Session,
    /// Decrypted or put back, and not yet read.
    received: VecDeque<Chunk>,
    /// The socket has ended.
    ended: bool,
    close_sent: bool,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl TlsStream {
    async fn shake_hands(
        stream: Stream,
        session: Session,
        own_end_point_hash: Option<Arc<[u8]>>,
    ) -> Result<Box<Self>, TlsError> {
        let state = State {
            session,
            received: VecDeque::new(),
            ended: false,
            // Until the handshake is over there is nothing to close.
            close_sent: true,
        };
        let this = Box::new(Self {
            stream: Some(stream),
            state: RefCell::new(Some(state)),
            own_end_point_hash,
        });
        // A client speaks first.
        this.state().decrypt(this.stream(), Chunk::empty())?;
        let mut bytes = 0;
        while this.state().session.is_handshaking() {
            let chunk = this.stream().recv().await?;
            if chunk.is_empty() {
                return Err(TlsError::Closed);
            }
            bytes += chunk.len();
            if bytes > TLS_HANDSHAKE_BYTES_MAX {
                return Err(TlsError::HandshakeTooLong);
            }
            this.state().decrypt(this.stream(), chunk)?;
        }
        this.state().close_sent = false;
        Ok(this)
    }

    /// The next decrypted bytes; an empty chunk is the end.
    ///
    /// # Errors
    /// When the connection broke, or what arrives is not what the peer sent.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        loop {
            if let Some(result) = self.state().take_received() {
                return Poll::Ready(result);
            }
            let chunk = ready!(self.stream().poll_recv(cx))?;
            self.take_in(chunk);
        }
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
        loop {
            if let Some(result) = self.state().take_received() {
                return Some(result);
            }
            match self.stream().try_recv()? {
                Ok(chunk) => self.take_in(chunk),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn take_in(&self, chunk: Chunk) {
        let state = &mut *self.state();
        if chunk.is_empty() {
            state.ended = true;
        } else {
            // An error stays in the session and is reported when what came before it has been read.
            state.decrypt(self.stream(), chunk).ok();
        }
    }

    /// Puts the unread rest of a chunk back, to be received again first.
    pub fn unrecv(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.state().received.push_front(chunk);
        }
    }

    /// Encrypts and appends to the send queue; never waits, and fails by [`poll_writable`](Self::poll_writable) only.
    /// Each call makes a record of its own, so larger slices are cheaper.
    pub fn queue(&self, bytes: &[u8]) {
        let state = &mut *self.state();
        if state.close_sent {
            return;
        }
        with_scratch(|output| {
            for piece in bytes.chunks(TLS_ENCRYPT_BYTES_MAX) {
                // An error stays in the session, where `poll_writable` finds it.
                let encrypted = state.session.encrypt(piece, output);
                self.stream().queue(&output.outgoing);
                output.outgoing.clear();
                if encrypted.is_err() {
                    break;
                }
            }
            state.keep(Chunk::empty(), &output.plain);
        });
    }

    /// Sends what is queued now, instead of at the end of the turn.
    pub fn flush_now(&self) {
        self.stream().flush_now();
    }

    /// Encrypted bytes queued and not yet taken by the system.
    pub fn queued(&self) -> usize {
        self.stream().queued()
    }

    /// Ready when fewer than `below` encrypted bytes are queued.
    ///
    /// # Errors
    /// When sending has failed for good.
    pub fn poll_writable(&self, cx: &mut Context<'_>, below: usize) -> Poll<io::Result<()>> {
        if let Some(error) = self.state().session.failed() {
            return Poll::Ready(Err(broken(error)));
        }
        self.stream().poll_writable(cx, below)
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

    /// Sends what is queued, then tells the peer that nothing more will come, in TLS and below.
    ///
    /// # Errors
    /// When sending has failed.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.queue_close();
        self.stream().shutdown().await
    }

    /// Closes at once: what is queued is thrown away, and the peer sees a reset.
    pub fn abort(mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
    }

    /// Takes the connection off this core, to be attached to another.
    ///
    /// # Errors
    /// When it is broken already.
    pub fn detach(mut self) -> io::Result<DetachedTls> {
        let stream = self.stream.take().expect(HAS_STREAM);
        let detached = stream.detach()?;
        let state = self.state.take().expect(HAS_STATE);
        Ok(DetachedTls {
            detached,
            unread: state.received.iter().flat_map(|chunk| chunk.to_vec()).collect(),
            session: state.session,
            ended: state.ended,
            close_sent: state.close_sent,
            own_end_point_hash: self.own_end_point_hash.take(),
        })
    }

    /// Takes a connection onto this core.
    ///
    /// # Errors
    /// When the kernel refuses to watch it.
    pub fn attach(detached: DetachedTls) -> io::Result<Box<Self>> {
        let stream = Stream::attach(detached.detached)?;
        let mut received = VecDeque::new();
        if !detached.unread.is_empty() {
            received.push_back(Chunk::copy_of(&detached.unread));
        }
        let state = State {
            session: detached.session,
            received,
            ended: detached.ended,
            close_sent: detached.close_sent,
        };
        Ok(Box::new(Self {
            stream: Some(stream),
            state: RefCell::new(Some(state)),
            own_end_point_hash: detached.own_end_point_hash,
        }))
    }

    /// The connection below, for its addresses and options; its bytes are none of the caller's.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        self.stream.as_ref().expect(HAS_STREAM)
    }

    /// Protocol version, as PostgreSQL writes it: `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.state().session.version()
    }

    /// Cipher suite by its IANA name, `TLS_AES_256_GCM_SHA384`.
    #[must_use]
    pub fn cipher(&self) -> &'static str {
        self.state().session.cipher()
    }

    /// The application protocol agreed on, if any.
    #[must_use]
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.state().session.alpn()
    }

    /// What the peer's certificate says, if it showed one that reads as one. On the server side it was verified; on the
    /// client side as far as [`SslMode`] asks for.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Certificate> {
        Certificate::parse(&self.peer_certificate_der()?)
    }

    /// The peer's certificate itself.
    #[must_use]
    pub fn peer_certificate_der(&self) -> Option<Vec<u8>> {
        self.state().session.peer_certificate_der()
    }

    /// The `tls-server-end-point` channel binding (RFC 5929) of this connection: the hash of the server's certificate,
    /// be that ours or the peer's.
    #[must_use]
    pub fn end_point_hash(&self) -> Option<Vec<u8>> {
        if self.state().session.is_server() {
            return self.own_end_point_hash.as_deref().map(<[u8]>::to_vec);
        }
        let der = self.peer_certificate_der()?;
        Certificate::parse(&der)?.end_point_hash(&der)
    }

    fn state(&self) -> RefMut<'_, State> {
        RefMut::map(self.state.borrow_mut(), |state| state.as_mut().expect(HAS_STATE))
    }

    /// Queues our close_notify, once.
    fn queue_close(&self) {
        let state = &mut *self.state();
        if state.close_sent || state.session.failed().is_some() {
            return;
        }
        state.close_sent = true;
        with_scratch(|output| {
            // Without it the peer sees the end of the connection only.
            if state.session.close(output).is_ok() {
                self.stream().queue(&output.outgoing);
            }
        });
    }
}

const HAS_STATE: &str = "a TLS connection has its state until it is given up";
const HAS_STREAM: &str = "a TLS connection has its stream until it is given up";

impl Drop for TlsStream {
    fn drop(&mut self) {
        // Not where the core has gone before the connection.
        if self.stream.is_some() && try_with_reactor(|_reactor| ()).is_some() {
            self.queue_close();
        }
    }
}

impl State {
    fn take_received(&mut self) -> Option<io::Result<Chunk>> {
        if let Some(chunk) = self.received.pop_front() {
            if self.received.is_empty() {
                // An idle connection holds no memory for what it may receive.
                self.received = VecDeque::new();
            }
            return Some(Ok(chunk));
        }
        if let Some(error) = self.session.failed() {
            return Some(Err(broken(error)));
        }
        (self.ended || self.session.is_peer_closed()).then(|| Ok(Chunk::empty()))
    }

    /// Takes bytes from the socket; what they decrypt to is in `received` afterwards, and what TLS has to say to
    /// them is queued.
    fn decrypt(&mut self, stream: &Stream, mut chunk: Chunk) -> Result<(), rustls::Error> {
        with_scratch(|output| {
            let result = self.session.receive(chunk.bytes_mut(), output);
            if !output.outgoing.is_empty() {
                stream.queue(&output.outgoing);
            }
            self.keep(chunk, &output.plain);
            result
        })
    }

    /// Keeps decrypted bytes to be read: in the buffer they came in, and in more if need be.
    fn keep(&mut self, chunk: Chunk, plain: &[u8]) {
        let mut rest = plain;
        let mut buffer = chunk;
        while !rest.is_empty() {
            let taken = buffer.replace(rest);
            if taken > 0 {
                self.received.push_back(buffer);
            }
            rest = rest.get(taken..).unwrap_or_default();
            buffer = Chunk::filled(buffer::take(), 0);
        }
    }
}

thread_local! {
    /// Memory for the bytes on their way through TLS, of which a core needs one at a time.
    static SCRATCH: Cell<Output> = const { Cell::new(Output { outgoing: Vec::new(), plain: Vec::new() }) };
}

fn with_scratch<R>(work: impl FnOnce(&mut Output) -> R) -> R {
    let mut output = SCRATCH.take();
    let result = work(&mut output);
    for memory in [&mut output.outgoing, &mut output.plain] {
        memory.clear();
        memory.shrink_to(TLS_SCRATCH_BYTES_KEPT_MAX);
    }
    SCRATCH.set(output);
    result
}

/// An encrypted connection between cores.
pub struct DetachedTls {
    detached: Detached,
    session: Session,
    unread: Vec<u8>,
    ended: bool,
    close_sent: bool,
    own_end_point_hash: Option<Arc<[u8]>>,
}

impl fmt::Debug for DetachedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedTls").field("detached", &self.detached).finish_non_exhaustive()
    }
}
