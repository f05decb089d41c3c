//! What may not go wrong: dropping at every point, running out of buffers and of queue space, reused
//! descriptors, ending with work in flight, moving between cores.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::executor::spawn_detached;

/// As [`everywhere`], with hardly any receive buffers.
fn everywhere_short_of_buffers<F: Future<Output = ()>>(scenario: impl Fn() -> F) {
    for backend in BACKENDS {
        let options = Options { buffers: 4, buffer_bytes: 256, ..Options::on(backend) };
        run_on(&options, scenario());
    }
}

fn listen() -> Listener {
    Listener::bind(&LOOPBACK.parse().expect("an address"), &ListenOptions::default())
        .expect("bound")
}

/// Polls `future` `polls` times, with turns in between, then drops it; true if it was done before.
async fn poll_and_drop<F: Future>(future: F, polls: usize) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let done = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        if done {
            return true;
        }
        yield_now().await;
    }
    false
}

/// Sends back what it receives, until end of file.
async fn echo(stream: Stream) {
    while let Ok(chunk) = stream.recv().await
        && !chunk.is_empty()
    {
        stream.queue(&chunk);
    }
}

#[test]
fn every_future_can_be_dropped_after_any_poll() {
    everywhere(|| async {
        let listener = Rc::new(listen());
        let address = listener.local_address();
        for polls in 0..6 {
            poll_and_drop(Stream::connect(&address), polls).await;
            poll_and_drop(listener.accept(), polls).await;
        }
        // Connections that were dropped half made are accepted and end at once; then a whole one works.
        let theirs = Rc::clone(&listener);
        let server = spawn(async move {
            loop {
                let (stream, _) = theirs.accept().await.expect("accepted");
                spawn_detached(echo(stream));
            }
        });
        for polls in 0..6 {
            let client = Stream::connect(&address).await.expect("connected");
            poll_and_drop(client.recv(), polls).await;
            poll_and_drop(client.send(b"abc"), polls).await;
            assert!(!poll_and_drop(client.shutdown(), 0).await);
            let expected = if polls == 0 { 0 } else { 3 };
            client.queue(b"def");
            let echoed = receive_exactly(&client, expected + 3).await;
            assert!(echoed.ends_with(b"def"));
        }
        server.abort();
    });
}

#[test]
fn more_connections_than_buffers_all_get_their_bytes() {
    everywhere_short_of_buffers(|| async {
        let listener = listen();
        let address = listener.local_address();
        let server = spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                spawn_detached(echo(stream));
            }
        });
        let clients = (0..40u8).map(|number| {
            let address = address.clone();
            spawn(async move {
                let stream = Stream::connect(&address).await.expect("connected");
                for round in 0..20 {
                    let message = vec![number ^ round; 1000];
                    stream.queue(&message);
                    assert!(receive_exactly(&stream, message.len()).await == message);
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("not aborted");
        }
        server.abort();
    });
}

#[test]
fn chunks_held_for_long_do_not_starve_others() {
    everywhere_short_of_buffers(|| async {
        let mut held = Vec::new();
        for _ in 0..10 {
            let (client, server) = pair().await;
            client.send(b"kept").await.expect("sent");
            let chunk = server.recv().await.expect("received");
            held.push((client, server, chunk));
        }
        let (client, server) = pair().await;
        client.send(&[1; 5000]).await.expect("sent");
        assert_eq!(receive_exactly(&server, 5000).await, [1; 5000]);
        for (_, _, chunk) in &held {
            assert_eq!(&**chunk, b"kept");
        }
    });
}

#[test]
fn bytes_nobody_reads_do_not_starve_others_and_are_bounded() {
    everywhere_short_of_buffers(|| async {
        let (loud, deaf) = pair().await;
        assert!(!poll_and_drop(deaf.recv(), 1).await);
        loud.queue(&vec![7; 8 << 20]);
        for _ in 0..200 {
            yield_now().await;
        }
        clock::sleep(Duration::from_millis(20)).await;
        assert!(loud.queued() > 0, "a peer that does not read holds the sender back");
        let (client, server) = pair().await;
        client.send(b"through").await.expect("sent");
        assert_eq!(receive_exactly(&server, 7).await, b"through");
        let mut rest = 8 << 20;
        while rest > 0 {
            let chunk = deaf.recv().await.expect("received");
            assert!(chunk.iter().all(|byte| *byte == 7));
            rest -= chunk.len();
        }
    });
}

#[test]
fn a_reused_descriptor_sees_nothing_of_the_one_before() {
    everywhere(|| async {
        let listener = listen();
        let address = listener.local_address();
        for round in 0..300u32 {
            let client = Stream::connect(&address).await.expect("connected");
            let (server, _) = listener.accept().await.expect("accepted");
            // A receive is armed and bytes are on their way when both ends go, in either order.
            assert!(!poll_and_drop(server.recv(), 1).await);
            assert!(!poll_and_drop(client.recv(), 1).await);
            client.queue(&round.to_le_bytes());
            server.queue(b"stale");
            if round % 3 == 0 {
                drop(client);
                server.abort();
            } else {
                server.abort();
                client.abort();
            }
            let client = Stream::connect(&address).await.expect("connected");
            let (server, _) = listener.accept().await.expect("accepted");
            client.queue(b"fresh");
            client.shutdown().await.expect("shut down");
            assert_eq!(receive_exactly(&server, 5).await, b"fresh");
            assert!(server.recv().await.expect("received").is_empty());
        }
    });
}

#[test]
fn a_core_may_end_with_everything_in_flight() {
    for backend in BACKENDS {
        for _ in 0..20 {
            run_on(&Options::on(backend), async {
                let listener = listen();
                let address = listener.local_address();
                spawn_detached(async move {
                    loop {
                        let (stream, _) = listener.accept().await.expect("accepted");
                        spawn_detached(echo(stream));
                    }
                });
                for _ in 0..20 {
                    let address = address.clone();
                    spawn_detached(async move {
                        let stream = Stream::connect(&address).await.expect("connected");
                        stream.queue(&vec![9; 200_000]);
                        while !stream.recv().await.expect("received").is_empty() {}
                    });
                }
                for _ in 0..8 {
                    yield_now().await;
                }
            });
        }
    }
}

#[test]
fn a_connection_moves_between_cores_with_its_bytes() {
    for backend in BACKENDS {
        let (to_other, from_first) = std::sync::mpsc::channel::<Detached>();
        let other = std::thread::spawn(move || {
            run_on(&Options::on(backend), async move {
                for detached in from_first {
                    let stream = Stream::attach(detached).expect("attached");
                    let request = receive_exactly(&stream, 6).await;
                    stream.queue(&request);
                    stream.shutdown().await.expect("shut down");
                }
            });
        });
        run_on(&Options::on(backend), async move {
            for _ in 0..50 {
                let (client, server) = pair().await;
                client.queue(b"abc");
                let chunk = server.recv().await.expect("received");
                server.unrecv(chunk);
                server.queue(b"hello ");
                // More arrives while it moves.
                client.queue(b"def");
                client.flush_now();
                to_other.send(server.detach().expect("detached")).expect("the other core listens");
                assert_eq!(receive_exactly(&client, 12).await, b"hello abcdef");
                assert!(client.recv().await.expect("received").is_empty());
            }
        });
        other.join().expect("the other core ends");
    }
}

#[test]
fn two_thousand_connections_at_once_all_work() {
    const CONNECTIONS: usize = 2000;
    assert!(raise_fd_limit(20_000) >= 5_000, "the limit of descriptors is too low for this test");
    everywhere(|| async {
        let listener = listen();
        let address = listener.local_address();
        spawn_detached(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                spawn_detached(echo(stream));
            }
        });
        let answered = Rc::new(Cell::new(0));
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            clients.push((number, Stream::connect(&address).await.expect("connected")));
        }
        let tasks = clients.into_iter().map(|(number, stream)| {
            let answered = Rc::clone(&answered);
            spawn(async move {
                let message = number.to_le_bytes();
                for _ in 0..3 {
                    stream.queue(&message);
                    assert_eq!(receive_exactly(&stream, message.len()).await, message);
                }
                answered.set(answered.get() + 1);
                stream
            })
        });
        let mut open = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            open.push(task.await.expect("not aborted"));
        }
        assert_eq!(answered.get(), CONNECTIONS);
    });
}

#[test]
fn a_connection_refused_late_is_an_error() {
    everywhere(|| async {
        let (client, server) = pair().await;
        server.abort();
        let error = loop {
            client.queue(b"anybody there?");
            if let Err(error) = client.sent().await {
                break error;
            }
        };
        assert!(
            matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            "{error}"
        );
    });
}

#[test]
fn a_stream_that_never_runs_dry_lets_others_run() {
    everywhere_short_of_buffers(|| async {
        let (loud, ear) = unix_pair("dry").await;
        let turns = Rc::new(Cell::new(0u32));
        let theirs = Rc::clone(&turns);
        spawn_detached(async move {
            loop {
                theirs.set(theirs.get() + 1);
                yield_now().await;
            }
        });
        const TOTAL: usize = 1 << 20;
        loud.queue(&vec![1; TOTAL]);
        let (mut received, mut in_a_row, mut last) = (0, 0, 0);
        while received < TOTAL {
            received += ear.recv().await.expect("received").len();
            in_a_row = if last == turns.get() { in_a_row + 1 } else { 0 };
            last = turns.get();
            assert!(in_a_row <= crate::limits::RECEIVES_PER_POLL_MAX);
        }
    });
}

#[test]
fn a_task_can_wait_for_more_streams_than_it_may_receive_from_in_a_poll() {
    everywhere(|| async {
        let (mut ears, mut mouths) = (Vec::new(), Vec::new());
        for _stream in 0..2 * crate::limits::RECEIVES_PER_POLL_MAX {
            let (mouth, ear) = pair().await;
            ears.push(ear);
            mouths.push(mouth);
        }
        let polls = Rc::new(Cell::new(0));
        let theirs = Rc::clone(&polls);
        let first = spawn(async move {
            poll_fn(|cx| {
                theirs.set(theirs.get() + 1);
                let heard = ears.iter().map(|ear| ear.poll_recv(cx));
                heard.filter(Poll::is_ready).last().unwrap_or(Poll::Pending)
            })
            .await
        });
        for _turn in 0..100 {
            yield_now().await;
        }
        assert!(polls.get() < 10, "it was woken {} times by nothing", polls.get());
        mouths.last().expect("there are some").queue(b"here");
        let heard = first.await.expect("not aborted").expect("received");
        assert_eq!(&*heard, b"here");
    });
}

#[test]
fn a_watch_dropped_while_it_waits_leaves_nothing_behind() {
    use std::os::fd::AsFd;

    use crate::io::Readiness;

    everywhere(|| async {
        for _ in 0..100 {
            let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
            let watch = Readiness::new(reader).expect("watched");
            assert!(!poll_and_drop(watch.readable(), 2).await);
            drop(watch);
            // The numbers are used again at once, by a watch that must see its own pipe only.
            let (reader, other_writer) = rustix::pipe::pipe().expect("a pipe");
            let watch = Readiness::new(reader).expect("watched");
            drop(writer);
            assert!(!poll_and_drop(watch.readable(), 3).await);
            rustix::io::write(&other_writer, b"x").expect("written");
            watch.readable().await.expect("readable");
            let mut byte = [0; 4];
            assert_eq!(rustix::io::read(watch.as_fd(), &mut byte), Ok(1));
        }
    });
}
