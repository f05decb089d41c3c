//! A proxy before an S3 server: some requests it answers by 500 itself, of some it loses the answer, some it never answers.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it is the world outside: a server on threads of its own"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const REFUSAL: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// No answer for so long is none.
const STALL: Duration = Duration::from_secs(120);

/// What happens to a request: each has a connection of its own, since the server closes it after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    Refused,
    ReplyLost,
    Stalled,
}

impl Fate {
    /// By turns, so that no request that is repeated meets faults only.
    fn of(number: u64) -> Fate {
        match number {
            number if number % 100 == 20 => Fate::Stalled,
            number if number % 5 == 1 => Fate::Refused,
            number if number % 5 == 3 => Fate::ReplyLost,
            _ => Fate::Well,
        }
    }
}

/// It ends with the value, but for requests under way.
pub(super) struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    has_ended: AtomicBool,
}

impl Proxy {
    pub(super) fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.has_ended.load(Ordering::Relaxed) {
                    return;
                }
                let number = shared.requests.fetch_add(1, Ordering::Relaxed);
                // What breaks is what the test is about.
                std::thread::spawn(move || pass(client, server, Fate::of(number)).ok());
            }
        });
        Proxy { address, counts }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.counts.has_ended.store(true, Ordering::Relaxed);
        // Wakes it.
        drop(TcpStream::connect(self.address));
    }
}

fn pass(mut client: TcpStream, server: SocketAddr, fate: Fate) -> std::io::Result<()> {
    if fate == Fate::Refused {
        let mut request = vec![0; 64 << 10];
        let _some = client.read(&mut request)?;
        client.write_all(REFUSAL)?;
        return client.shutdown(Shutdown::Write);
    }
    let mut server = TcpStream::connect(server)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server).ok());
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match fate {
        Fate::ReplyLost => {}
        Fate::Stalled => std::thread::sleep(STALL),
        _ => client.write_all(&answer)?,
    }
    client.shutdown(Shutdown::Both)
}
