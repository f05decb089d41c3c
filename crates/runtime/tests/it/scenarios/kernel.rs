//! What only a real kernel has: signals, credentials, stale socket files, connections that change cores.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use runtime::clock;
use runtime::executor::{block_on, spawn};
use runtime::io::{Options, backend};
use runtime::mailbox;
use runtime::net::{Address, ListenOptions, Listener, Stream};
use runtime::signal::{Signal, Signals};

use super::{fresh_path, listen, on_real_drivers, pair, pattern, read};

on_real_drivers!(
    a_unix_peer_has_credentials,
    a_dead_servers_socket_file_is_replaced_and_a_live_ones_is_not,
    a_connection_moves_to_another_core_with_its_bytes,
    a_wake_from_another_thread_ends_the_sleep_of_a_core,
    listeners_share_a_port,
    a_deferred_connection_comes_with_its_first_bytes_and_a_silent_one_later,
    signals_reach_a_parked_core,
    descriptors_reused_at_once_see_no_stale_events,
);

async fn a_unix_peer_has_credentials() {
    let path = fresh_path("credentials");
    let options = ListenOptions { unix_mode: Some(0o700), ..ListenOptions::default() };
    let listener = Listener::bind(&Address::Unix(path.clone()), &options).expect("a free path");
    let mode = std::fs::metadata(&path).expect("a socket file").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let _client = Stream::connect(&Address::Unix(path.clone())).await.expect("somebody listens");
    let (server, _) = listener.accept().await.expect("a connection");
    let peer = server.peer_credentials().expect("Linux tells");
    assert_eq!(peer.pid, std::process::id());
    std::fs::remove_file(path).expect("removed");
}

async fn a_dead_servers_socket_file_is_replaced_and_a_live_ones_is_not() {
    let path = fresh_path("stale");
    let address = Address::Unix(path.clone());
    let options = ListenOptions::default();
    let live = Listener::bind(&address, &options).expect("a free path");
    Listener::bind(&address, &options).expect_err("somebody listens there");
    drop(live);
    drop(Listener::bind(&address, &options).expect("nobody does any more"));
    let _may_be_gone = std::fs::remove_file(path);
}

async fn a_connection_moves_to_another_core_with_its_bytes() {
    let (client, server) = pair().await;
    client.send(&pattern(1, 1000)).await.expect("sent");
    let mut first = server.recv().await.expect("open");
    first.advance(1);
    server.unrecv(first);
    server.queue(b"queued before");
    let detached = server.detach().expect("open");
    let options = Options::on(backend());
    let other = std::thread::spawn(move || {
        block_on(&options, async move {
            let server = Stream::attach(detached).expect("attached");
            let got = read(&server, 999).await;
            server.send(b" and after").await.expect("sent");
            got
        })
    });
    assert_eq!(read(&client, 23).await, b"queued before and after");
    let got = other.join().expect("the other core ends").expect("its driver works");
    assert!(got == pattern(1, 1000)[1..], "unread bytes went along");
}

async fn a_wake_from_another_thread_ends_the_sleep_of_a_core() {
    let (sender, mut receiver) = mailbox::channel(16);
    let other = std::thread::spawn(move || {
        for n in 0..200u32 {
            std::thread::sleep(Duration::from_millis(u64::from(n % 3)));
            while sender.try_send(n).is_err() {
                std::thread::yield_now();
            }
        }
    });
    for n in 0..200 {
        let got = clock::timeout(Duration::from_secs(20), receiver.recv()).await;
        assert_eq!(got, Ok(Some(n)), "a wake was lost");
    }
    other.join().expect("the sender ends");
}

async fn listeners_share_a_port() {
    let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let first = Listener::bind(&"127.0.0.1:0".parse().expect("an address"), &options);
    let first = first.expect("a free port");
    let address = first.local_address();
    let second = Listener::bind(&address, &options).expect("shared");
    let count = |listener: Listener| {
        spawn(async move {
            let mut accepted = 0;
            while let Ok(Ok((stream, _))) =
                clock::timeout(Duration::from_millis(500), listener.accept()).await
            {
                stream.send(b"!").await.expect("sent");
                accepted += 1;
            }
            accepted
        })
    };
    let (first, second) = (count(first), count(second));
    for _ in 0..200 {
        let stream = Stream::connect(&address).await.expect("somebody listens");
        assert_eq!(read(&stream, 1).await, b"!");
    }
    let accepted = (first.await.expect("ends"), second.await.expect("ends"));
    assert_eq!(accepted.0 + accepted.1, 200);
    assert!(accepted.0 > 0 && accepted.1 > 0, "spread over both: {accepted:?}");
}

async fn a_deferred_connection_comes_with_its_first_bytes_and_a_silent_one_later() {
    let options = ListenOptions { deferred: true, ..ListenOptions::default() };
    let listener = Listener::bind(&"127.0.0.1:0".parse().expect("an address"), &options);
    let listener = listener.expect("a free port");
    let silent = Stream::connect(&listener.local_address()).await.expect("somebody listens");
    let client = Stream::connect(&listener.local_address()).await.expect("somebody listens");
    client.send(b"first").await.expect("sent");
    let (server, address) = listener.accept().await.expect("a connection");
    assert_eq!(
        address,
        client.local_address().expect("open"),
        "who speaks is not behind who does not"
    );
    assert_eq!(read(&server, 5).await, b"first");
    let (server, address) = listener.accept().await.expect("a connection");
    assert_eq!(address, silent.local_address().expect("open"));
    server.send(b"well?").await.expect("sent");
    assert_eq!(read(&silent, 5).await, b"well?");
    silent.send(b"yes").await.expect("sent");
    assert_eq!(read(&server, 3).await, b"yes");
}

async fn signals_reach_a_parked_core() {
    let mut signals = Signals::new(&[Signal::User1]).expect("handled");
    let pid = std::process::id().to_string();
    for _ in 0..5 {
        let kill = std::process::Command::new("kill").args(["-USR1", &pid]).status();
        assert!(kill.expect("kill runs").success());
        let signal = clock::timeout(Duration::from_secs(20), signals.next()).await;
        assert_eq!(signal, Ok(Signal::User1));
    }
}

async fn descriptors_reused_at_once_see_no_stale_events() {
    let listener = listen();
    let address = listener.local_address();
    for n in 0..500 {
        let client = Stream::connect(&address).await.expect("somebody listens");
        let (server, _) = listener.accept().await.expect("a connection");
        // A receive under way, bytes on their way, and both descriptors closed: the next pair reuses them.
        let waiting = spawn(async move { server.recv().await.map(|chunk| chunk.len()) });
        client.queue(&pattern(n, 100));
        if n % 2 == 0 {
            waiting.abort();
            client.abort();
        } else {
            let got = waiting.await.expect("ends").expect("open");
            assert_eq!(got, 100, "the bytes of this connection and no other");
        }
    }
}
