//! Bytes on a connection: cancelled receives, partial sends, exhausted buffers, back-pressure.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use runtime::clock;
use runtime::executor::{spawn, yield_now};
use runtime::io::{Backend, Options};

use super::{on_every_driver, pair, pattern, read, run};

on_every_driver!(
    a_cancelled_receive_loses_nothing,
    large_sends_arrive_whole_at_a_slow_reader,
    a_reader_that_stops_holds_the_writer_back,
    what_is_put_back_is_received_first,
    many_small_sends_of_one_turn_keep_their_order,
    sending_to_a_closed_peer_ends_in_an_error,
    both_directions_run_at_once,
    few_buffers_serve_many_connections,
);

async fn a_cancelled_receive_loses_nothing() {
    let (client, server) = pair().await;
    let bytes = pattern(0, 50_000);
    let sent = bytes.clone();
    let sender = spawn(async move {
        for piece in sent.chunks(97) {
            client.queue(piece);
            yield_now().await;
        }
        client.sent().await.expect("sent");
        client
    });
    let mut got = Vec::new();
    let mut cancelled = 0;
    while got.len() < bytes.len() {
        let mut receive = std::pin::pin!(server.recv());
        match poll_fn(|cx| Poll::Ready(receive.as_mut().poll(cx))).await {
            Poll::Ready(chunk) => got.extend_from_slice(&chunk.expect("the connection stands")),
            Poll::Pending => {
                cancelled += 1;
                clock::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    assert!(got == bytes, "nothing lost, nothing twice");
    assert!(cancelled > 0, "some receives were dropped while they waited");
    drop(sender.await);
}

async fn large_sends_arrive_whole_at_a_slow_reader() {
    let (client, server) = pair().await;
    let bytes = pattern(1, 8 << 20);
    let sent = bytes.clone();
    let sender = spawn(async move {
        client.send(&sent).await.expect("sent");
        client.shutdown().await.expect("shut");
    });
    let mut got = Vec::new();
    for turn in 0.. {
        let chunk = server.recv().await.expect("the connection stands");
        if chunk.is_empty() {
            break;
        }
        got.extend_from_slice(&chunk);
        drop(chunk);
        if turn % 64 == 0 {
            clock::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
    sender.await.expect("the sender ends");
}

async fn a_reader_that_stops_holds_the_writer_back() {
    let (client, server) = pair().await;
    let mut sent = 0;
    let piece = pattern(0, 64 * 1024);
    let stuck = async {
        loop {
            client.queue(&piece);
            sent += piece.len();
            poll_fn(|cx| client.poll_writable(cx, 2 * piece.len())).await.expect("open");
        }
    };
    let full: Result<(), _> = clock::timeout(Duration::from_millis(500), stuck).await;
    assert!(full.is_err(), "without a reader the writer gets stuck");
    assert!(sent < 64 << 20, "after a bounded number of bytes: {sent}");
    assert!(client.queued() > 0);
    let got = spawn(async move { read(&server, sent).await.len() });
    client.sent().await.expect("the reader goes on");
    assert_eq!(got.await.expect("the reader ends"), sent);
}

async fn what_is_put_back_is_received_first() {
    let (client, server) = pair().await;
    client.send(b"abcdef").await.expect("sent");
    let mut chunk = server.recv().await.expect("open");
    while chunk.len() < 6 {
        server.unrecv(chunk);
        yield_now().await;
        chunk = server.recv().await.expect("open");
    }
    chunk.advance(2);
    server.unrecv(chunk);
    client.send(b"ghi").await.expect("sent");
    assert_eq!(read(&server, 7).await, b"cdefghi");
}

async fn many_small_sends_of_one_turn_keep_their_order() {
    let (client, server) = pair().await;
    for n in 0..10_000u32 {
        client.queue(&n.to_be_bytes());
    }
    let expected: Vec<u8> = (0..10_000u32).flat_map(u32::to_be_bytes).collect();
    assert!(read(&server, 40_000).await == expected, "in order");
}

async fn sending_to_a_closed_peer_ends_in_an_error() {
    let (client, server) = pair().await;
    drop(server);
    let failing = async {
        while client.send(b"into the void").await.is_ok() {
            clock::sleep(Duration::from_millis(1)).await;
        }
    };
    clock::timeout(Duration::from_secs(20), failing).await.expect("the send fails in the end");
    let after = client.send(b"again").await;
    assert!(after.is_err(), "and goes on failing");
}

async fn both_directions_run_at_once() {
    let (client, server) = pair().await;
    let bytes = pattern(9, 2 << 20);
    let (there, back) = (bytes.clone(), bytes.clone());
    let peer = spawn(async move {
        server.queue(&back);
        let got = read(&server, back.len()).await;
        server.sent().await.expect("sent");
        got == back
    });
    client.queue(&there);
    assert!(read(&client, bytes.len()).await == bytes, "towards the client");
    assert!(peer.await.expect("the peer ends"), "towards the server");
}

async fn few_buffers_serve_many_connections() {
    let connections = 40;
    let mut pairs = Vec::new();
    for _ in 0..connections {
        pairs.push(pair().await);
    }
    // Everything is sent before anything is read, several times what the buffers hold.
    for (n, (client, _)) in pairs.iter().enumerate() {
        client.queue(&pattern(n, 100_000));
    }
    clock::sleep(Duration::from_millis(50)).await;
    for (n, (_, server)) in pairs.iter().enumerate().rev() {
        assert!(read(server, 100_000).await == pattern(n, 100_000), "connection {n}");
    }
}

/// As the scenario says, with a pool far too small.
#[test]
fn an_exhausted_pool_delays_and_loses_nothing() {
    for backend in [Backend::Epoll, Backend::IoUring] {
        let options = Options { buffers: 8, buffer_bytes: 512, ..Options::on(backend) };
        run(options, few_buffers_serve_many_connections());
    }
}
