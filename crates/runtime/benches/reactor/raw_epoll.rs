//! The floor for readiness: a loop that reads and writes what epoll reports and does nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    RecvFlags, SendFlags, SocketFlags, accept_with, bind, connect, getsockname, listen,
};
use rustix::net::{recv, send, sockopt};

use crate::Outcome;
use crate::load::{port, tcp};

const LISTENER: u64 = u64::MAX;

pub(crate) fn run(server: SocketAddr, announce: impl Fn(u16)) -> Outcome<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let listener = tcp(SocketFlags::NONBLOCK)?;
    bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listen(&listener, 4096)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    announce(port(getsockname(&listener)?)?);
    // Connections come in pairs: the peer of 2n is 2n + 1.
    let mut sockets = Vec::<OwnedFd>::new();
    let mut bytes = vec![0; 4096];
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => accept_all(&epoll, &listener, server, &mut sockets)?,
                index => {
                    let index = usize::try_from(index)?;
                    if let Ok((count, _)) = recv(&sockets[index], &mut *bytes, RecvFlags::DONTWAIT)
                    {
                        send(&sockets[index ^ 1], &bytes[..count], SendFlags::NOSIGNAL)?;
                    }
                }
            }
        }
    }
}

fn accept_all(
    epoll: &OwnedFd,
    listener: &OwnedFd,
    server: SocketAddr,
    sockets: &mut Vec<OwnedFd>,
) -> Outcome<()> {
    while let Ok(client) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        let upstream = tcp(SocketFlags::empty())?;
        connect(&upstream, &server)?;
        ioctl_fionbio(&upstream, true)?;
        for socket in [client, upstream] {
            sockopt::set_tcp_nodelay(&socket, true)?;
            let index = EventData::new_u64(sockets.len() as u64);
            sockets.push(socket);
            let socket = sockets[sockets.len() - 1].as_fd();
            epoll::add(epoll, socket, index, EventFlags::IN | EventFlags::RDHUP | EventFlags::ET)?;
        }
    }
    Ok(())
}
