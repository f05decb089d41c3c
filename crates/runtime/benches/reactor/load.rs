//! The clients and the server around the proxy, as one epoll loop: cheap, and the same for every variant.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, accept_with, bind,
};
use rustix::net::{connect, getsockname, listen, recv, send, socket_with, sockopt};

use crate::Outcome;

const REQUEST: [u8; 100] = [1; 100];
const RESPONSE: [u8; 300] = [2; 300];
const LISTENER: u64 = u64::MAX;

/// One end of a connection through the proxy.
struct End {
    fd: OwnedFd,
    /// A client counts responses, the server answers requests.
    client: bool,
    received: usize,
}

pub(crate) struct Load {
    epoll: OwnedFd,
    listener: OwnedFd,
    server_port: u16,
    ends: Vec<End>,
    trips: u64,
}

impl Load {
    pub(crate) fn new() -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let listener = tcp(SocketFlags::NONBLOCK)?;
        bind(&listener, &std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listen(&listener, 4096)?;
        let server_port = port(getsockname(&listener)?)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self { epoll, listener, server_port, ends: Vec::new(), trips: 0 })
    }

    pub(crate) fn server_port(&self) -> u16 {
        self.server_port
    }

    /// Opens `count` client connections through the proxy and sends the first request on each.
    pub(crate) fn connect(&mut self, proxy_port: u16, count: usize) -> Outcome<()> {
        for number in 0..count {
            let fd = tcp(SocketFlags::empty())?;
            connect(&fd, &std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, proxy_port)))?;
            send(&fd, &REQUEST, SendFlags::NOSIGNAL)?;
            self.add(fd, true)?;
            if number % 64 == 63 {
                self.turn(Duration::ZERO, true)?;
            }
        }
        Ok(())
    }

    /// Runs the closed loop: round trips made, seconds taken. It never sleeps, or waking it would be charged to
    /// whichever variant is slow enough to let it fall asleep.
    pub(crate) fn run(&mut self, window: Duration) -> Outcome<(f64, f64)> {
        let (start, before) = (Instant::now(), self.trips);
        while start.elapsed() < window {
            self.turn(Duration::ZERO, true)?;
        }
        Ok(((self.trips - before) as f64, start.elapsed().as_secs_f64()))
    }

    /// Lets every request be answered and sends no more.
    pub(crate) fn one_round(&mut self) -> Outcome<()> {
        let mut quiet = 0;
        while quiet < 20 {
            let before = self.trips;
            self.turn(Duration::from_millis(10), false)?;
            quiet = if self.trips == before { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn turn(&mut self, wait: Duration, again: bool) -> Outcome<()> {
        let mut events = Vec::with_capacity(1024);
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
        {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            match event.data.u64() {
                LISTENER => self.accept()?,
                index => self.ready(usize::try_from(index)?, again)?,
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Outcome<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(fd) => self.add(fd, false)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn add(&mut self, fd: OwnedFd, client: bool) -> Outcome<()> {
        sockopt::set_tcp_nodelay(&fd, true)?;
        let index = self.ends.len() as u64;
        epoll::add(
            &self.epoll,
            fd.as_fd(),
            EventData::new_u64(index),
            EventFlags::IN | EventFlags::ET,
        )?;
        self.ends.push(End { fd, client, received: 0 });
        Ok(())
    }

    fn ready(&mut self, index: usize, again: bool) -> Outcome<()> {
        let end = &mut self.ends[index];
        let mut bytes = [0; 1024];
        match recv(&end.fd, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err("the proxy closed a connection".into()),
            Ok((count, _)) => end.received += count,
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if end.client && end.received >= RESPONSE.len() {
            end.received -= RESPONSE.len();
            self.trips += 1;
            if again {
                send(&end.fd, &REQUEST, SendFlags::NOSIGNAL)?;
            }
        } else if !end.client && end.received >= REQUEST.len() {
            end.received -= REQUEST.len();
            send(&end.fd, &RESPONSE, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }
}

pub(crate) fn tcp(flags: SocketFlags) -> Outcome<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
}

pub(crate) fn port(name: SocketAddrAny) -> Outcome<u16> {
    Ok(std::net::SocketAddr::try_from(name)?.port())
}
