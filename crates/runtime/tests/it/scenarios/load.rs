//! Many connections, many timers.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::time::Duration;

use runtime::clock;
use runtime::executor::spawn;
use runtime::net::{Stream, raise_fd_limit};
use runtime::random::Rng;

use super::{on_every_driver, pattern, read, start_echo};

on_every_driver!(
    ten_thousand_connections_are_served_and_stay,
    timers_fire_once_and_never_early_under_load,
    connections_come_and_go,
);

/// How many connections a process may hold both ends of; ten thousand where the system lets us.
fn connections_max() -> usize {
    let descriptors = usize::try_from(raise_fd_limit(25_000)).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(500) / 2).min(10_000)
}

/// Held by whoever needs all of the process's descriptors: drivers' tests may run as threads of one process.
static DESCRIPTORS: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[expect(clippy::await_holding_lock, reason = "each scenario has an executor of its own")]
async fn ten_thousand_connections_are_served_and_stay() {
    let _alone = DESCRIPTORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let address = start_echo();
    let count = connections_max();
    let mut streams = Vec::with_capacity(count);
    for n in 0..count {
        let stream = Stream::connect(&address).await.expect("somebody listens");
        stream.queue(&(n as u32).to_be_bytes());
        streams.push(stream);
    }
    // All at once, and then each again after the others.
    for round in 0..2u32 {
        for (n, stream) in streams.iter().enumerate() {
            assert_eq!(read(stream, 4).await, (n as u32 + round).to_be_bytes(), "round {round}");
            stream.queue(&(n as u32 + round + 1).to_be_bytes());
        }
    }
}

async fn timers_fire_once_and_never_early_under_load() {
    let address = start_echo();
    let mut rng = Rng::seeded(1);
    let start = clock::now();
    let mut sleepers = Vec::new();
    for _ in 0..5_000 {
        let wanted = Duration::from_micros(rng.below(300_000));
        sleepers.push(spawn(async move {
            clock::sleep(wanted).await;
            (wanted, clock::now() - start)
        }));
    }
    let busy = spawn(async move {
        let stream = Stream::connect(&address).await.expect("somebody listens");
        for n in 0..500 {
            stream.queue(&pattern(n, 1000));
            assert!(read(&stream, 1000).await == pattern(n, 1000));
        }
    });
    // Aborted and dropped timers must leave no trace.
    for _ in 0..1_000 {
        spawn(clock::sleep(Duration::from_secs(3600))).abort();
    }
    for sleeper in sleepers {
        let (wanted, slept) = sleeper.await.expect("sleepers end");
        assert!(slept >= wanted, "woke early: wanted {wanted:?}, slept {slept:?}");
    }
    busy.await.expect("the traffic ends");
}

async fn connections_come_and_go() {
    let address = start_echo();
    let mut rng = Rng::seeded(2);
    for n in 0..500 {
        let stream = Stream::connect(&address).await.expect("somebody listens");
        stream.queue(&pattern(n, 300));
        match rng.below(3) {
            0 => drop(stream),
            1 => stream.abort(),
            _ => assert!(read(&stream, 300).await == pattern(n, 300), "connection {n}"),
        }
    }
}
