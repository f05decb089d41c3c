//! The façade on every back end this machine has.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::buffer::Chunk;
use crate::clock;
use crate::executor::{block_on, spawn, yield_now};
use crate::io::{Backend, Options};

mod soundness;

const LOOPBACK: &str = "127.0.0.1:0";

const BACKENDS: [Backend; 2] = [Backend::Epoll, Backend::IoUring];

/// Runs the scenario on each back end.
fn everywhere<F: Future<Output = ()>>(scenario: impl Fn() -> F) {
    for backend in BACKENDS {
        run_on(&Options::on(backend), scenario());
    }
}

fn run_on(options: &Options, scenario: impl Future<Output = ()>) {
    let limited = async {
        clock::timeout(Duration::from_secs(120), scenario).await.expect("the scenario ends")
    };
    block_on(options, limited).expect("the loop runs");
}

fn unix_path(name: &str) -> PathBuf {
    let unique = crate::random::Rng::from_os().next_u64();
    std::env::temp_dir().join(format!("runtime-net-{name}-{unique:x}"))
}

async fn pair() -> (Stream, Stream) {
    let listener =
        Listener::bind(&LOOPBACK.parse().expect("an address"), &ListenOptions::default())
            .expect("bound");
    let client = Stream::connect(&listener.local_address()).await.expect("connected");
    let (server, address) = listener.accept().await.expect("accepted");
    assert_eq!(Ok(address), client.local_address().map_err(|e| e.to_string()));
    (client, server)
}

async fn unix_pair(name: &str) -> (Stream, Stream) {
    let path = unix_path(name);
    let listener =
        Listener::bind(&Address::Unix(path.clone()), &ListenOptions::default()).expect("bound");
    let client = Stream::connect(&listener.local_address()).await.expect("connected");
    let (server, _) = listener.accept().await.expect("accepted");
    std::fs::remove_file(path).expect("removed");
    (client, server)
}

async fn receive_exactly(stream: &Stream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let mut chunk = stream.recv().await.expect("received");
        assert!(!chunk.is_empty(), "end of file after {} of {count} bytes", bytes.len());
        let wanted = chunk.len().min(count - bytes.len());
        bytes.extend_from_slice(&chunk[..wanted]);
        chunk.advance(wanted);
        stream.unrecv(chunk);
    }
    bytes
}

#[test]
fn bytes_go_both_ways_and_end_in_end_of_file() {
    everywhere(|| async {
        for (client, server) in [pair().await, unix_pair("both").await] {
            client.queue(b"hel");
            client.queue(b"lo");
            assert_eq!(receive_exactly(&server, 5).await, b"hello");
            server.send(b"world").await.expect("sent");
            assert_eq!(receive_exactly(&client, 5).await, b"world");
            client.queue(b"bye");
            client.shutdown().await.expect("shut down");
            assert_eq!(receive_exactly(&server, 3).await, b"bye");
            assert!(server.recv().await.expect("received").is_empty());
            assert!(server.recv().await.expect("received").is_empty(), "end of file stays");
            server.send(b"still open").await.expect("sent");
            assert_eq!(receive_exactly(&client, 10).await, b"still open");
            drop(server);
            assert!(client.recv().await.expect("received").is_empty());
        }
    });
}

#[test]
fn a_send_that_ends_at_the_end_of_a_turn_wakes_its_task() {
    everywhere(|| async {
        let (client, _server) = pair().await;
        clock::timeout(Duration::from_secs(5), client.send(b"alone"))
            .await
            .expect("woken")
            .expect("sent");
    });
}

#[test]
fn what_was_queued_before_the_drop_arrives() {
    everywhere(|| async {
        let (client, server) = pair().await;
        client.queue(b"last words");
        drop(client);
        assert_eq!(receive_exactly(&server, 10).await, b"last words");
        assert!(server.recv().await.expect("received").is_empty());
    });
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    everywhere(|| async {
        for (client, server) in [pair().await, unix_pair("slow").await] {
            const TOTAL: usize = 24 << 20;
            let writer = spawn(async move {
                let block = (0..=250u8).cycle().take(10_000).collect::<Vec<_>>();
                let mut sent = 0;
                while sent < TOTAL {
                    client.queue(&block);
                    sent += block.len();
                    assert!(client.queued() <= 64 * 1024 + block.len());
                    std::future::poll_fn(|cx| client.poll_writable(cx, 64 * 1024))
                        .await
                        .expect("writable");
                }
                client.sent().await.expect("sent");
                sent
            });
            clock::sleep(Duration::from_millis(5)).await;
            let mut received = 0;
            loop {
                let chunk = server.recv().await.expect("received");
                if chunk.is_empty() {
                    break;
                }
                for (offset, byte) in chunk.iter().enumerate() {
                    let expected = (received + offset) % 10_000 % 251;
                    assert_eq!(usize::from(*byte), expected, "at {}", received + offset);
                }
                received += chunk.len();
            }
            assert_eq!(writer.await, Ok(received));
        }
    });
}

#[test]
fn a_receive_dropped_while_waiting_loses_nothing() {
    everywhere(|| async {
        let (client, server) = pair().await;
        for round in 0..200u32 {
            assert!(clock::timeout(Duration::ZERO, server.recv()).await.is_err());
            client.queue(&round.to_le_bytes());
            let mut got = Vec::new();
            while got.len() < 4 {
                if let Ok(chunk) = clock::timeout(Duration::ZERO, server.recv()).await {
                    got.extend_from_slice(&chunk.expect("received"));
                }
                yield_now().await;
            }
            assert_eq!(got, round.to_le_bytes());
        }
    });
}

#[test]
fn nobody_there_is_an_error_for_the_connecting_side() {
    everywhere(|| async {
        let listener =
            Listener::bind(&LOOPBACK.parse().expect("an address"), &ListenOptions::default())
                .expect("bound");
        let address = listener.local_address();
        drop(listener);
        let error = Stream::connect(&address).await.expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let error =
            Stream::connect(&Address::Unix(unix_path("none"))).await.expect_err("not there");
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn an_abort_is_an_error_for_the_peer() {
    everywhere(|| async {
        let (client, server) = pair().await;
        client.abort();
        let error = server.recv().await.expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn sending_into_a_closed_connection_fails_and_what_came_before_can_be_read() {
    everywhere(|| async {
        let (client, server) = unix_pair("closed").await;
        server.queue(b"reason");
        drop(server);
        client.queue(b"unheard");
        let error = client.sent().await.expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        client.queue(b"ignored");
        assert_eq!(client.queued(), 0);
        assert_eq!(receive_exactly(&client, 6).await, b"reason");
    });
}

#[test]
fn a_detached_connection_takes_its_unread_and_unsent_bytes_along() {
    everywhere(|| async {
        let (client, server) = pair().await;
        client.send(b"abcdef").await.expect("sent");
        let mut chunk = server.recv().await.expect("received");
        chunk.advance(2);
        server.unrecv(chunk);
        server.queue(b"reply");
        let detached = server.detach().expect("detached");
        let server = Rc::new(Stream::attach(detached).expect("attached"));
        assert_eq!(receive_exactly(&server, 4).await, b"cdef");
        assert_eq!(receive_exactly(&client, 5).await, b"reply");
        client.queue(b"more");
        assert_eq!(receive_exactly(&server, 4).await, b"more");
    });
}

#[test]
fn knows_who_is_at_the_other_end_of_a_unix_socket() {
    everywhere(|| async {
        let (client, server) = unix_pair("who").await;
        let credentials = server.peer_credentials().expect("a Unix socket");
        assert_eq!(credentials.pid, std::process::id());
        assert!(client.is_unix());
        let (client, _server) = pair().await;
        assert_eq!(client.peer_credentials(), None);
    });
}

#[test]
fn unread_bytes_put_back_come_first() {
    everywhere(|| async {
        let (client, server) = pair().await;
        client.send(b"tail").await.expect("sent");
        server.unrecv(Chunk::copy_of(b"b"));
        server.unrecv(Chunk::copy_of(b"a"));
        assert_eq!(receive_exactly(&server, 6).await, b"abtail");
    });
}
