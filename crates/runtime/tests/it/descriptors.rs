//! A listener whose process runs out of descriptors, for real: this test binary runs itself as a child with few.
#![expect(
    clippy::print_stdout,
    reason = "the child says on its standard output where it listens and how many it held at once"
)]

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use runtime::executor::{block_on, spawn_detached};
use runtime::io::{Backend, Options};
use runtime::net::{ListenOptions, Listener};

/// The variable that tells the child which back end to use.
const BACKEND: &str = "HOWDAH_TEST_DESCRIPTORS";
/// Descriptors of the child, and clients at once.
const DESCRIPTORS: usize = 40;
const CLIENTS: usize = 100;

/// The first words of what the child says.
const SAID: [&str; 3] = ["listening", "most", "skipped"];
/// Against hangs only.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: what the child runs.
#[test]
fn child() {
    if let Ok(backend) = std::env::var(BACKEND) {
        let options = Options::on(backend.parse().expect("the parent names one"));
        if let Err(error) = block_on(&options, serve()) {
            println!("skipped {error}");
        }
    }
}

/// Answers every client's first byte with it, and says how many clients were there at once.
async fn serve() {
    let address = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(&address, &ListenOptions::default()).expect("a free port");
    println!("listening {}", listener.local_address());
    // All clients come before the first is accepted.
    let mut line = String::new();
    assert!(
        std::io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0),
        "the parent says go"
    );
    let (now, most) = (Rc::new(Cell::new(0_usize)), Rc::new(Cell::new(0_usize)));
    for _ in 0..CLIENTS {
        let (stream, _) = listener.accept().await.expect("exhaustion is waited out");
        now.set(now.get() + 1);
        most.set(most.get().max(now.get()));
        let now = Rc::clone(&now);
        spawn_detached(async move {
            while let Ok(chunk) = stream.recv().await
                && !chunk.is_empty()
            {
                stream.queue(&chunk);
            }
            drop(stream);
            now.set(now.get() - 1);
        });
    }
    println!("most {}", most.get());
    // The last ones are answered at the end of the turn.
    while now.get() > 0 {
        runtime::clock::sleep(Duration::from_millis(5)).await;
    }
}

fn clients_wait_until_descriptors_come_free(backend: Backend) {
    let limited = format!("ulimit -n {DESCRIPTORS}; exec \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &limited, "sh"])
        .arg(std::env::current_exe().expect("a path"))
        .args(["--exact", "descriptors::child", "--nocapture", "--test-threads", "1"])
        .env(BACKEND, backend.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut said = output.lines().map(|line| line.expect("text")).filter_map(|line| {
        // The harness may have begun the line.
        let mut words = line.split(' ').skip_while(|word| !SAID.contains(word));
        Some((words.next()?.to_owned(), words.collect::<Vec<_>>().join(" ")))
    });
    let (name, address) = said.next().expect("it listens, or says why not");
    if name == "skipped" {
        println!("skipped: {address}");
        child.wait().expect("it ends");
        return;
    }
    let address: SocketAddr = address.parse().expect("an address");
    let mut clients: Vec<TcpStream> = Vec::new();
    for n in 0..CLIENTS {
        let mut client = TcpStream::connect(address).expect("room in the backlog");
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        client.write_all(&[u8::try_from(n).expect("few")]).expect("sent");
        clients.push(client);
    }
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    for (n, mut client) in clients.into_iter().enumerate() {
        let mut answer = [0];
        client.read_exact(&mut answer).expect("everybody is served in the end");
        assert_eq!(usize::from(answer[0]), n);
    }
    let (_, most) = said.next().expect("it served everybody");
    let most: usize = most.parse().expect("a number");
    assert!((1..DESCRIPTORS).contains(&most), "{most} at once with {DESCRIPTORS} descriptors");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn clients_wait_until_descriptors_come_free_on_epoll() {
    clients_wait_until_descriptors_come_free(Backend::Epoll);
}

#[test]
fn clients_wait_until_descriptors_come_free_on_io_uring() {
    clients_wait_until_descriptors_come_free(Backend::IoUring);
}
