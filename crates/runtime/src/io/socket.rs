//! Making and asking sockets: what the drivers of a real kernel have in common.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, chmod, unlink};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketType, bind, connect, listen, send, sockopt,
};

use super::slots::{Kind, Slot};
#[cfg(target_os = "linux")]
use crate::limits::DEFERRED_SECONDS;
use crate::net::{Address, ListenOptions};

/// A listening socket, not blocking; true when its connections are deferred. What every connection has is set here,
/// and inherited.
pub(super) fn listening(address: &Address, options: &ListenOptions) -> io::Result<(OwnedFd, bool)> {
    let socket = new_socket(address)?;
    prepare(socket.as_fd(), matches!(address, Address::Unix(_)));
    let mut deferred = false;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    match address {
        Address::Tcp(address) => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            if options.reuse_port {
                reuse_port(&socket)?;
            }
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            bind(&socket, address)?;
            deferred = options.deferred && defer(&socket);
            listen(&socket, backlog)?;
        }
        Address::Unix(path) => {
            let name = SocketAddrUnix::new(path)?;
            if is_stale(&name)? {
                unlink(path)?;
            }
            bind(&socket, &name)?;
            if let Some(mode) = options.unix_mode {
                chmod(path, Mode::from_raw_mode(raw_mode(mode)))?;
            }
            listen(&socket, backlog)?;
        }
    }
    Ok((socket, deferred))
}

/// Has connections wait in the kernel for their first bytes; false where that cannot be had, which costs a wake-up.
#[cfg(target_os = "linux")]
fn defer(socket: &OwnedFd) -> bool {
    crate::sys::socket::defer_accept(socket.as_fd(), DEFERRED_SECONDS).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn defer(_socket: &OwnedFd) -> bool {
    false
}

/// Permission bits in the width this system has for them.
#[cfg(target_os = "linux")]
fn raw_mode(mode: u32) -> rustix::fs::RawMode {
    mode
}

#[cfg(not(target_os = "linux"))]
fn raw_mode(mode: u32) -> rustix::fs::RawMode {
    rustix::fs::RawMode::try_from(mode & 0o7777).unwrap_or(0o600)
}

/// Whether the path is the socket of a server that is gone.
fn is_stale(name: &SocketAddrUnix) -> io::Result<bool> {
    let probe = plain_socket(AddressFamily::UNIX)?;
    match connect(&probe, name) {
        Err(Errno::CONNREFUSED) => Ok(true),
        _ => Ok(false),
    }
}

#[cfg(target_os = "linux")]
fn reuse_port(socket: &OwnedFd) -> io::Result<()> {
    Ok(sockopt::set_socket_reuseport(socket, true)?)
}

#[cfg(target_os = "freebsd")]
fn reuse_port(socket: &OwnedFd) -> io::Result<()> {
    Ok(sockopt::set_socket_reuseport_lb(socket, true)?)
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn reuse_port(_socket: &OwnedFd) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system does not spread connections over listeners",
    ))
}

/// A socket on its way to `address`, not blocking; true when it is there already.
pub(super) fn connecting(address: &Address) -> io::Result<(OwnedFd, bool)> {
    let socket = new_socket(address)?;
    prepare(socket.as_fd(), matches!(address, Address::Unix(_)));
    let result = match address {
        Address::Tcp(address) => connect(&socket, address),
        Address::Unix(path) => connect(&socket, &SocketAddrUnix::new(path)?),
    };
    match result {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, false)),
        Err(error) => Err(error.into()),
    }
}

/// Sets what every connection has. Errors don't matter: the connection may be gone by now, which reading will tell.
pub(super) fn prepare(socket: BorrowedFd<'_>, local: bool) {
    if !local {
        let _gone = sockopt::set_tcp_nodelay(socket, true);
    }
    #[cfg(target_vendor = "apple")]
    let _gone = sockopt::set_socket_nosigpipe(socket, true);
}

/// Takes the next connection off a listener, not blocking, with its address.
#[cfg(target_os = "linux")]
pub(super) fn accept(listener: &OwnedFd, local: bool) -> Result<(OwnedFd, Address), Errno> {
    use rustix::net::{SocketFlags, accept_with, acceptfrom_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    if local {
        return Ok((accept_with(listener, flags)?, nameless()));
    }
    let (socket, address) = acceptfrom_with(listener, flags)?;
    Ok((socket, address.and_then(|any| Address::of(&any).ok()).unwrap_or_else(nameless)))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn accept(listener: &OwnedFd, local: bool) -> Result<(OwnedFd, Address), Errno> {
    let (socket, address) = rustix::net::acceptfrom(listener)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    ioctl_fionbio(&socket, true)?;
    prepare(socket.as_fd(), local);
    let address = address.filter(|_| !local).and_then(|any| Address::of(&any).ok());
    Ok((socket, address.unwrap_or_else(nameless)))
}

/// Where an accepted connection comes from. A peer that is gone again has no address; reading will tell.
#[cfg(target_os = "linux")]
pub(super) fn peer(socket: &OwnedFd, local: bool) -> Address {
    let ask = || Address::of(&rustix::net::getpeername(socket).ok()??).ok();
    if local { nameless() } else { ask().unwrap_or_else(nameless) }
}

fn nameless() -> Address {
    Address::Unix("".into())
}

/// Where a socket is, and its peer; a listener's peer is a socket without a name.
pub(super) fn names(slot: &Slot) -> io::Result<(Address, Address)> {
    let fd = slot.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
    let local = Address::of(&rustix::net::getsockname(fd)?)?;
    let peer = match rustix::net::getpeername(fd) {
        Ok(Some(peer)) => Address::of(&peer)?,
        Ok(None) => nameless(),
        Err(Errno::NOTCONN) if slot.kind == Kind::Listener => nameless(),
        Err(error) => return Err(error.into()),
    };
    Ok((local, peer))
}

/// Whether a descriptor is a Unix socket.
pub(super) fn is_local(socket: BorrowedFd<'_>) -> bool {
    rustix::net::getsockname(socket).is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
}

/// How a direct send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// The socket takes no more for now.
    Full,
    Failed,
}

/// Sends what is queued until it is all out or the socket takes no more. A failure is kept in the slot.
pub(super) fn send_queued(slot: &mut Slot) -> Sent {
    while !slot.out.is_empty() {
        match send_once(slot.socket(), slot.out.unsent()) {
            Ok(count) => {
                let wanted = slot.out.len();
                slot.out.advance(count);
                if count < wanted {
                    continue;
                }
            }
            Err(Errno::AGAIN) => {
                slot.writable = false;
                slot.sent_some();
                return Sent::Full;
            }
            Err(error) => {
                slot.fail_sending(error);
                return Sent::Failed;
            }
        }
    }
    slot.sent_some();
    Sent::All
}

/// Sends a slice past the queue; how much was taken. The rest is for the queue, which finds out why.
pub(super) fn send_direct(slot: &Slot, bytes: &[u8]) -> usize {
    send_once(slot.socket(), bytes).unwrap_or(0)
}

/// One send(2) that neither waits nor signals.
pub(super) fn send_once(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match send(socket, bytes, SEND_FLAGS) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

fn new_socket(address: &Address) -> io::Result<OwnedFd> {
    let family = match address {
        Address::Tcp(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Tcp(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    plain_socket(family)
}

#[cfg(target_os = "linux")]
fn plain_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

#[cfg(not(target_os = "linux"))]
fn plain_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Makes a socket blocking or not.
pub(super) fn set_nonblocking(socket: &OwnedFd, nonblocking: bool) -> io::Result<()> {
    Ok(ioctl_fionbio(socket, nonblocking)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::slots::Slots;
    use crate::net::Keepalive;

    #[test]
    fn what_a_listener_is_set_to_its_connections_inherit() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let (listener, _) = listening(&any, &ListenOptions::default()).expect("a free port");
        let mut slots = Slots::default();
        let id = slots.insert_listener(listener, &any, false);
        let idle = std::time::Duration::from_secs(77);
        let keepalive = Keepalive { idle: Some(idle), ..Keepalive::default() };
        slots.get_mut(id).set_keepalive(Some(&keepalive)).expect("set");
        let (address, _) = names(slots.get_mut(id)).expect("bound");
        let (client, _) = connecting(&address).expect("begun");
        ioctl_fionbio(&client, false).expect("blocking");
        let (server, from) = loop {
            match accept(slots.get_mut(id).socket(), false) {
                Err(Errno::AGAIN) => std::thread::yield_now(),
                accepted => break accepted.expect("accepted"),
            }
        };
        assert_eq!(
            from,
            Address::of(&rustix::net::getsockname(&client).expect("open")).expect("TCP")
        );
        assert!(sockopt::tcp_nodelay(&server).expect("a TCP socket"));
        assert!(sockopt::socket_keepalive(&server).expect("a socket"));
        assert_eq!(sockopt::tcp_keepidle(&server).expect("a TCP socket"), idle);
    }
}
