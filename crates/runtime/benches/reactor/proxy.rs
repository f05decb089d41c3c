//! The proxy, in five ways. Each prints its port and runs until it is killed.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;

use runtime::executor::{block_on, spawn_detached};
use runtime::io::{Backend, Options};
use runtime::net::{Address, ListenOptions, Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::{Outcome, own_session, pin, raw_epoll, raw_uring};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    RawEpoll,
    RawUring,
    OwnEpoll,
    OwnUring,
    Tokio,
}

impl Variant {
    pub(crate) const ALL: [Self; 5] =
        [Self::RawEpoll, Self::RawUring, Self::OwnEpoll, Self::OwnUring, Self::Tokio];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RawEpoll => "raw_epoll",
            Self::RawUring => "raw_uring",
            Self::OwnEpoll => "own_epoll",
            Self::OwnUring => "own_uring",
            Self::Tokio => "tokio",
        }
    }

    /// The raw loop this is compared with.
    pub(crate) fn raw(self) -> Self {
        match self {
            Self::RawUring | Self::OwnUring => Self::RawUring,
            _ => Self::RawEpoll,
        }
    }
}

/// There is no such variant.
#[derive(Debug)]
pub(crate) struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown variant \"{}\"", self.0)
    }
}

impl std::error::Error for Unknown {}

impl FromStr for Variant {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        let found = Self::ALL.into_iter().find(|variant| variant.name() == name);
        found.ok_or_else(|| Unknown(name.to_owned()))
    }
}

/// Is the proxy.
pub(crate) fn run(variant: Variant, server_port: u16, cpu: usize) -> Outcome<()> {
    own_session();
    pin(cpu)?;
    runtime::net::raise_fd_limit(200_000);
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server_port));
    match variant {
        Variant::RawEpoll => raw_epoll::run(server, announce),
        Variant::RawUring => raw_uring::run(server, announce),
        Variant::OwnEpoll => own(Backend::Epoll, server),
        Variant::OwnUring => own(Backend::IoUring, server),
        Variant::Tokio => with_tokio(server),
    }
}

fn announce(port: u16) {
    println!("{port}");
}

fn own(backend: Backend, server: SocketAddr) -> Outcome<()> {
    block_on(&Options::on(backend), async {
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = Listener::bind(&address, &ListenOptions::default())?;
        if let Address::Tcp(address) = listener.local_address() {
            announce(address.port());
        }
        loop {
            let (client, _) = listener.accept().await?;
            spawn_detached(async move {
                if let Ok(server) = Stream::connect(&Address::Tcp(server)).await {
                    let (client, server) = (Rc::new(client), Rc::new(server));
                    spawn_detached(forward(Rc::clone(&client), Rc::clone(&server)));
                    spawn_detached(forward(server, client));
                }
            });
        }
    })?
}

async fn forward(from: Rc<Stream>, to: Rc<Stream>) {
    while let Ok(chunk) = from.recv().await
        && !chunk.is_empty()
    {
        to.queue(&chunk);
    }
}

fn with_tokio(server: SocketAddr) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let tasks = tokio::task::LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        announce(listener.local_addr()?.port());
        loop {
            let (client, _) = listener.accept().await?;
            let server = tokio::net::TcpStream::connect(server).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::task::spawn_local(forward_with_tokio(from_client, to_server));
            tokio::task::spawn_local(forward_with_tokio(from_server, to_client));
        }
    }))
}

async fn forward_with_tokio(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut bytes = vec![0; 4096];
    while let Ok(count) = from.read(&mut bytes).await
        && count > 0
        && to.write_all(&bytes[..count]).await.is_ok()
    {}
}
