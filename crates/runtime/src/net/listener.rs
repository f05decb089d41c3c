//! Accepting connections.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;

use rustix::io::Errno;

use super::{Address, Keepalive, Stream};
use crate::clock;
use crate::executor::{try_with_reactor, with_reactor};
use crate::io::Id;
use crate::limits::{ACCEPT_BACK_OFF, LISTEN_BACKLOG};

/// How to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections the kernel holds until they are accepted.
    pub backlog: u32,
    /// Every core may have a listener at the same address; the kernel spreads connections over them.
    pub reuse_port: bool,
    /// Permission bits of a Unix socket.
    pub unix_mode: Option<u32>,
    /// Connections come with their first bytes, or after a second without any: for protocols in which the client
    /// speaks first. It saves a wake-up for each. TCP on Linux only; elsewhere they come at once.
    pub deferred: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: LISTEN_BACKLOG, reuse_port: false, unix_mode: None, deferred: false }
    }
}

/// A listening socket of this core.
#[derive(Debug)]
pub struct Listener {
    id: Id,
    address: Address,
    core: PhantomData<*const ()>,
}

impl Listener {
    /// Listens at `address`; port 0 takes a free one. The socket a dead server left at a Unix path is replaced.
    ///
    /// # Errors
    /// When the address is taken, not ours, or not allowed.
    pub fn bind(address: &Address, options: &ListenOptions) -> io::Result<Self> {
        with_reactor(|reactor| {
            let id = reactor.driver.listen(&mut reactor.slots, address, options)?;
            let address = match address {
                Address::Tcp(_) => reactor.driver.names(&mut reactor.slots, id)?.0,
                Address::Unix(_) => address.clone(),
            };
            Ok(Self { id, address, core: PhantomData })
        })
    }

    /// Where it listens, with the port the system chose.
    pub fn local_address(&self) -> Address {
        self.address.clone()
    }

    /// Has the connections it accepts from now on probed when they are silent; `None`: no longer. Does nothing on a
    /// Unix socket, nor on a simulated one.
    ///
    /// # Errors
    /// When the system refuses a value.
    pub fn set_keepalive(&self, keepalive: Option<&Keepalive>) -> io::Result<()> {
        with_reactor(|reactor| reactor.slots.get_mut(self.id).set_keepalive(keepalive))
    }

    /// The next connection and where it comes from. Out of descriptors it waits for some to come free; what ails one
    /// connection is not the next one's.
    ///
    /// # Errors
    /// When the listener itself is broken.
    pub async fn accept(&self) -> io::Result<(Stream, Address)> {
        let mut waited = false;
        loop {
            let accepted = poll_fn(|cx| {
                with_reactor(|reactor| reactor.driver.poll_accept(&mut reactor.slots, self.id, cx))
            });
            match accepted.await {
                Ok((id, address)) => return Ok((Stream::of(id), address)),
                Err(error) if passes(&error) => {
                    if !std::mem::replace(&mut waited, true) {
                        tracing::warn!(address = %self.address, %error, "cannot accept connections for now");
                    }
                    clock::sleep(ACCEPT_BACK_OFF).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Out of something that comes back, or about one connection alone: errors that were pending on it are given to who accepts
/// it (accept(2), "Error handling"), and a firewall may forbid it.
fn passes(error: &io::Error) -> bool {
    const PASSING: [Errno; 13] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::TIMEDOUT,
        Errno::CONNRESET,
    ];
    Errno::from_io_error(error).is_some_and(|errno| PASSING.contains(&errno))
}

impl Drop for Listener {
    fn drop(&mut self) {
        try_with_reactor(|reactor| reactor.driver.close(&mut reactor.slots, self.id, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ails_one_connection_does_not_end_the_listener() {
        for errno in [Errno::PERM, Errno::PROTO, Errno::NETUNREACH, Errno::MFILE] {
            assert!(passes(&errno.into()), "{errno}");
        }
        for errno in [Errno::BADF, Errno::INVAL, Errno::OPNOTSUPP] {
            assert!(!passes(&errno.into()), "{errno}");
        }
    }
}
