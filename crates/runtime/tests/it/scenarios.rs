//! One suite of I/O scenarios, run on every driver that this machine has: io_uring, epoll and the simulator.
//!
//! A scenario is an async function that makes its own peers on loopback. What only a real kernel has (signals,
//! credentials, moving a socket to another core) runs on the real drivers alone.
#![expect(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "small numbers of a test; a skipped driver is said aloud"
)]

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::executor::{block_on, spawn_detached};
use runtime::io::{Backend, Options};
use runtime::net::{Address, ListenOptions, Listener, Stream};

mod connections;
mod files;
mod kernel;
mod load;
mod streams;

/// Makes each scenario a test of each driver.
macro_rules! on_every_driver {
    ($($scenario:ident),+ $(,)?) => {
        $crate::scenarios::on_driver!(epoll, runtime::io::Backend::Epoll, $($scenario),+);
        $crate::scenarios::on_driver!(io_uring, runtime::io::Backend::IoUring, $($scenario),+);
        $crate::scenarios::on_driver!(simulated, runtime::io::Backend::Simulated, $($scenario),+);
    };
}

/// Makes each scenario a test of each driver that talks to a real kernel.
macro_rules! on_real_drivers {
    ($($scenario:ident),+ $(,)?) => {
        $crate::scenarios::on_driver!(epoll, runtime::io::Backend::Epoll, $($scenario),+);
        $crate::scenarios::on_driver!(io_uring, runtime::io::Backend::IoUring, $($scenario),+);
    };
}

macro_rules! on_driver {
    ($driver:ident, $backend:expr, $($scenario:ident),+) => {
        mod $driver {
            $(
                #[test]
                fn $scenario() {
                    $crate::scenarios::run(runtime::io::Options::on($backend), super::$scenario());
                }
            )+
        }
    };
}

use {on_driver, on_every_driver, on_real_drivers};

/// Runs a scenario on a driver; says so and passes where the machine lacks it.
fn run(options: Options, scenario: impl Future<Output = ()>) {
    let wanted = options.backend;
    if let Err(error) = block_on(&options, async {}) {
        assert!(
            wanted == Options::on(Backend::IoUring).backend,
            "every machine of ours has {wanted}: {error}"
        );
        println!("skipped: {error}");
        return;
    }
    block_on(&options, scenario).expect("the driver works");
}

fn loopback() -> Address {
    "127.0.0.1:0".parse().expect("an address")
}

/// A path for a Unix socket or folder that no other test uses.
fn fresh_path(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("howdah-{name}-{}-{number}", std::process::id()))
}

fn listen() -> Listener {
    Listener::bind(&loopback(), &ListenOptions::default()).expect("a free port")
}

/// Both ends of a connection: who connected, who accepted.
async fn pair() -> (Stream, Stream) {
    let listener = listen();
    let client = Stream::connect(&listener.local_address()).await.expect("somebody listens");
    let (server, _) = listener.accept().await.expect("a connection");
    (client, server)
}

/// Reads until `count` bytes are there or the connection ends.
async fn read(stream: &Stream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let mut chunk = stream.recv().await.expect("the connection stands");
        if chunk.is_empty() {
            break;
        }
        let wanted = chunk.len().min(count - bytes.len());
        bytes.extend_from_slice(&chunk[..wanted]);
        chunk.advance(wanted);
        stream.unrecv(chunk);
    }
    bytes
}

/// Sends back what comes, until the connection ends.
async fn echo(stream: Stream) {
    while let Ok(chunk) = stream.recv().await {
        if chunk.is_empty() || stream.send(&chunk).await.is_err() {
            break;
        }
    }
}

/// A server that echoes every connection; where it listens.
fn start_echo() -> Address {
    let options = ListenOptions { backlog: 16_384, ..ListenOptions::default() };
    let listener = Listener::bind(&loopback(), &options).expect("a free port");
    let address = listener.local_address();
    spawn_detached(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_detached(echo(stream));
        }
    });
    address
}

/// `count` bytes that differ from their neighbours, and from those of another `seed`.
fn pattern(seed: usize, count: usize) -> Vec<u8> {
    (0..count).map(|n| ((n + seed) % 251) as u8).collect()
}
