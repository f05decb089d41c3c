//! How connections begin and end: refusals, half-closed sockets, resets, Unix sockets.

use std::io::ErrorKind;

use runtime::executor::spawn;
use runtime::net::{Address, ListenOptions, Listener, Stream};

use super::{fresh_path, listen, loopback, on_every_driver, pair, pattern, read};

on_every_driver!(
    a_half_closed_connection_still_carries_the_other_direction,
    a_reset_is_an_error_and_not_an_end,
    nobody_listening_is_a_refusal,
    a_taken_address_is_refused,
    dropping_a_stream_delivers_what_was_queued,
    addresses_are_told_alike_at_both_ends,
    unix_sockets_connect_by_path,
    connections_wait_in_the_backlog_until_accepted,
    a_dropped_accept_loses_no_connection,
);

async fn a_half_closed_connection_still_carries_the_other_direction() {
    let (client, server) = pair().await;
    client.queue(b"request");
    client.shutdown().await.expect("shut");
    assert_eq!(read(&server, 100).await, b"request", "and then the end of file");
    server.send(&pattern(1, 100_000)).await.expect("the other direction is open");
    server.shutdown().await.expect("shut");
    assert!(read(&client, 200_000).await == pattern(1, 100_000), "the whole answer");
    assert!(client.recv().await.expect("still an end of file").is_empty());
}

async fn a_reset_is_an_error_and_not_an_end() {
    let (client, server) = pair().await;
    let waiting = spawn(async move { client.recv().await.map(|chunk| chunk.len()) });
    server.abort();
    let error = waiting.await.expect("the task ends").expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

async fn nobody_listening_is_a_refusal() {
    let address = listen().local_address();
    let error = Stream::connect(&address).await.expect_err("the listener is gone");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

async fn a_taken_address_is_refused() {
    let listener = listen();
    let again = Listener::bind(&listener.local_address(), &ListenOptions::default());
    assert_eq!(again.expect_err("taken").kind(), ErrorKind::AddrInUse);
}

async fn dropping_a_stream_delivers_what_was_queued() {
    let (client, server) = pair().await;
    client.queue(&pattern(3, 20_000));
    drop(client);
    assert!(read(&server, 30_000).await == pattern(3, 20_000), "everything, then the end");
}

async fn addresses_are_told_alike_at_both_ends() {
    let (client, server) = pair().await;
    assert_eq!(client.local_address().expect("open"), server.peer_address().expect("open"));
    assert_eq!(client.peer_address().expect("open"), server.local_address().expect("open"));
    assert_ne!(client.local_address().expect("open"), loopback());
}

async fn unix_sockets_connect_by_path() {
    let path = fresh_path("socket");
    let options = ListenOptions { unix_mode: Some(0o600), ..ListenOptions::default() };
    let listener = Listener::bind(&Address::Unix(path.clone()), &options).expect("a free path");
    let client = Stream::connect(&Address::Unix(path.clone())).await.expect("somebody listens");
    let (server, _) = listener.accept().await.expect("a connection");
    assert!(client.is_unix() && server.is_unix());
    let sender = spawn(async move { client.send(&pattern(5, 500_000)).await });
    assert!(read(&server, 500_001).await == pattern(5, 500_000), "everything, then the end");
    sender.await.expect("the task ends").expect("sent");
    let _absent_when_simulated = std::fs::remove_file(path);
}

async fn connections_wait_in_the_backlog_until_accepted() {
    let listener = listen();
    let mut clients = Vec::new();
    for n in 0..50u8 {
        let client = Stream::connect(&listener.local_address()).await.expect("room in the backlog");
        client.send(&[n]).await.expect("sent before it is accepted");
        clients.push(client);
    }
    let mut seen = Vec::new();
    for _ in 0..50 {
        let (server, _) = listener.accept().await.expect("a connection");
        seen.extend(read(&server, 1).await);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
}

async fn a_dropped_accept_loses_no_connection() {
    let listener = listen();
    for n in 0..20u8 {
        {
            let mut accept = std::pin::pin!(listener.accept());
            let polled = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(accept.as_mut().poll(cx).is_ready())
            });
            assert!(!polled.await, "nobody has connected yet");
        }
        let client = Stream::connect(&listener.local_address()).await.expect("somebody listens");
        client.queue(&[n]);
        let (server, _) = listener.accept().await.expect("a connection");
        assert_eq!(read(&server, 1).await, [n]);
    }
}
