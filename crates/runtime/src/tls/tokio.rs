//! The same TLS on a tokio socket, for the API, whose HTTP library lives there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::TlsError;
use super::config::ServerTls;
use super::session::{Output, Session};
use crate::limits::{TLS_ENCRYPT_BYTES_MAX, TLS_HANDSHAKE_BYTES_MAX};

/// A server's connection. The handshake happens with the first read.
pub(crate) struct TokioTls {
    socket: TcpStream,
    session: Session,
    output: Output,
    /// Bytes of `output.outgoing` that the socket has taken, of `output.plain` that were read.
    sent: usize,
    read: usize,
    handshake_bytes: usize,
}

impl TokioTls {
    pub(crate) fn accept(socket: TcpStream, tls: &ServerTls) -> Result<Self, TlsError> {
        let session = Session::server(Arc::clone(&tls.current().config))?;
        let output = Output::default();
        Ok(Self { socket, session, output, sent: 0, read: 0, handshake_bytes: 0 })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.outgoing.get(self.sent..)
            && !rest.is_empty()
        {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.output.outgoing.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes what the socket has. False when it has ended.
    fn poll_take_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut memory = [0; 4096];
        let mut buffer = ReadBuf::new(&mut memory);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let incoming = buffer.filled_mut();
        if incoming.is_empty() {
            return Poll::Ready(Ok(false));
        }
        if self.session.is_handshaking() {
            self.handshake_bytes += incoming.len();
            if self.handshake_bytes > TLS_HANDSHAKE_BYTES_MAX {
                return Poll::Ready(Err(io::Error::other(TlsError::HandshakeTooLong)));
            }
        }
        let received = self.session.receive(incoming, &mut self.output);
        if let Err(error) = received {
            // The alert goes out if the socket takes it at once.
            let _tried = self.poll_send(cx);
            return Poll::Ready(Err(io::Error::other(TlsError::Protocol(error))));
        }
        Poll::Ready(Ok(true))
    }
}

impl AsyncRead for TokioTls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            // The handshake's answers go out on the way; room for them is waited for by the next read or write.
            if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            let rest = this.output.plain.get(this.read..).unwrap_or_default();
            if !rest.is_empty() {
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(rest.get(..count).unwrap_or_default());
                this.read += count;
                return Poll::Ready(Ok(()));
            }
            this.output.plain.clear();
            this.read = 0;
            if this.session.is_peer_closed() || !ready!(this.poll_take_in(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for TokioTls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.output.outgoing.len() >= TLS_ENCRYPT_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        let count = bytes.len().min(TLS_ENCRYPT_BYTES_MAX);
        let piece = bytes.get(..count).unwrap_or_default();
        this.session
            .encrypt(piece, &mut this.output)
            .map_err(|error| io::Error::other(TlsError::Protocol(error)))?;
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Where the session has failed there is nothing to say any more; said once, rustls says nothing again.
        this.session.close(&mut this.output).ok();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
