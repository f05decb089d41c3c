//! One seed is one run, and the simulated network behaves like a network.

use std::time::Duration;

use super::{DiskFaults, Faults, Simulation, cut, cut_power, heal, set_disk_capacity, trace};
use crate::clock;
use crate::executor::{block_on, spawn, spawn_detached};
use crate::fs::{self, File};
use crate::io::{Backend, Options};
use crate::net::{Address, ListenOptions, Listener, Stream};

fn simulated(seed: u64, faults: Faults) -> Options {
    Options {
        simulation: Simulation { seed, faults, ..Simulation::default() },
        ..Options::on(Backend::Simulated)
    }
}

fn where_syncs_fail() -> Options {
    let disk = DiskFaults { sync_error: 1_000_000, ..DiskFaults::default() };
    let simulation = Simulation { seed: 1, disk, ..Simulation::default() };
    Options { simulation, ..Options::on(Backend::Simulated) }
}

fn address() -> Address {
    "10.0.0.1:5432".parse().expect("an address")
}

/// Echoes every connection until it ends.
fn start_echo() {
    let listener = Listener::bind(&address(), &ListenOptions::default()).expect("a free address");
    spawn_detached(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_detached(async move {
                while let Ok(chunk) = stream.recv().await {
                    if chunk.is_empty() || stream.send(&chunk).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Sends `count` bytes and reads them back; how many came before the connection broke, and the last error.
async fn round_trip(count: usize) -> (usize, Option<std::io::ErrorKind>) {
    let stream = match Stream::connect(&address()).await {
        Ok(stream) => stream,
        Err(error) => return (0, Some(error.kind())),
    };
    let sent: Vec<u8> = (0..=250).cycle().take(count).collect();
    stream.queue(&sent);
    let mut read = 0;
    while read < count {
        match stream.recv().await {
            Ok(chunk) if chunk.is_empty() => return (read, None),
            Ok(chunk) => {
                assert_eq!(
                    *chunk,
                    sent[read..read + chunk.len()],
                    "bytes arrive in order and whole"
                );
                read += chunk.len();
            }
            Err(error) => return (read, Some(error.kind())),
        }
    }
    (read, None)
}

/// Many clients at once in a rough world; what each saw, and the trace.
fn rough_run(seed: u64) -> (Vec<(usize, Option<std::io::ErrorKind>)>, u64) {
    let rough = async {
        start_echo();
        let clients: Vec<_> = (1..50).map(|n| spawn(round_trip(n * 1000))).collect();
        let mut seen = Vec::new();
        for client in clients {
            seen.push(client.await.expect("clients end"));
        }
        (seen, trace())
    };
    block_on(&simulated(seed, Faults::rough()), rough).expect("the world goes on")
}

#[test]
fn one_seed_is_one_run_and_seeds_differ() {
    let first = rough_run(7);
    assert_eq!(first, rough_run(7));
    assert_ne!(first.1, rough_run(8).1);
    let broken = (0..20).flat_map(|seed| rough_run(seed).0).filter(|(_, error)| error.is_some());
    assert!(broken.count() > 0, "a rough world breaks some connections");
}

#[test]
fn time_jumps_over_what_nobody_waits_for() {
    let slept = block_on(&simulated(1, Faults::default()), async {
        let start = clock::now();
        clock::sleep(Duration::from_secs(86_400)).await;
        clock::now() - start
    });
    let slept = slept.expect("the world goes on");
    assert!((86_400..86_401).contains(&slept.as_secs()), "slept {slept:?}");
}

#[test]
fn a_window_larger_than_the_network_arrives_whole() {
    let whole = block_on(&simulated(3, Faults { split: 500_000, ..Faults::default() }), async {
        start_echo();
        round_trip(3_000_000).await
    });
    assert_eq!(whole.expect("the world goes on"), (3_000_000, None));
}

#[test]
fn nobody_listening_is_a_refusal() {
    let refused = block_on(&simulated(1, Faults::default()), round_trip(1));
    assert_eq!(
        refused.expect("the world goes on"),
        (0, Some(std::io::ErrorKind::ConnectionRefused))
    );
}

#[test]
fn a_cut_holds_bytes_back_and_healing_delivers_them() {
    let waited = block_on(&simulated(1, Faults::default()), async {
        start_echo();
        let stream = Stream::connect(&address()).await.expect("somebody listens");
        cut(&address());
        stream.queue(b"hello");
        let early = clock::timeout(Duration::from_secs(60), stream.recv()).await;
        assert!(early.is_err(), "nothing passes a cut");
        heal(&address());
        stream.recv().await.expect("healed").to_vec()
    });
    assert_eq!(waited.expect("the world goes on"), b"hello");
}

#[test]
fn closing_with_unread_bytes_resets_the_peer() {
    let seen = block_on(&simulated(1, Faults::default()), async {
        let listener =
            Listener::bind(&address(), &ListenOptions::default()).expect("a free address");
        let server = spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            clock::sleep(Duration::from_secs(1)).await;
            drop(stream);
            listener
        });
        let stream = Stream::connect(&address()).await.expect("somebody listens");
        stream.queue(b"never read");
        let result = stream.recv().await.map(|chunk| chunk.len()).map_err(|error| error.kind());
        drop(server.await);
        result
    });
    assert_eq!(seen.expect("the world goes on"), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_world_in_which_nothing_can_happen_ends_with_an_error() {
    let stuck = block_on(&simulated(1, Faults::default()), std::future::pending::<()>());
    assert_eq!(stuck.map_err(|error| error.kind()), Err(std::io::ErrorKind::TimedOut));
}

/// Appends records of one number each, syncing as it goes, until the power is cut; what was acknowledged.
async fn append_until_cut(records: u8) -> u8 {
    fs::create_dir_all("log").await.expect("a folder");
    fs::sync_dir("").await.expect("durable");
    let file = File::create("log/records").await.expect("a file");
    fs::sync_dir("log").await.expect("durable");
    let writer = spawn(async move {
        let acknowledged = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = std::rc::Rc::clone(&acknowledged);
        let task = spawn(async move {
            for n in 0..records {
                file.write_all_at(vec![n; 1000], u64::from(n) * 1000).await.0?;
                file.sync_data().await?;
                acknowledged.set(n + 1);
            }
            std::io::Result::Ok(())
        });
        clock::sleep(Duration::from_millis(20)).await;
        cut_power();
        drop(task.await);
        seen.get()
    });
    writer.await.expect("the writer ends")
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_may_tear_the_rest() {
    let mut torn = 0;
    for seed in 0..50 {
        let (acknowledged, bytes) = block_on(&simulated(seed, Faults::default()), async {
            let acknowledged = append_until_cut(200).await;
            (acknowledged, fs::read("log/records").await.expect("the file survives"))
        })
        .expect("the world goes on");
        assert!((1..200).contains(&acknowledged), "cut in the middle: {acknowledged}");
        for n in 0..acknowledged {
            let at = usize::from(n) * 1000;
            assert!(
                bytes[at..at + 1000].iter().all(|byte| *byte == n),
                "record {n} was acknowledged"
            );
        }
        torn += usize::from(bytes.len() % 1000 != 0);
    }
    assert!(torn > 0, "no write was torn in fifty cuts");
}

#[test]
fn an_unsynced_name_may_vanish_and_a_synced_one_does_not() {
    let mut vanished = 0;
    for seed in 0..20 {
        let listed = block_on(&simulated(seed, Faults::default()), async {
            fs::write_atomic("kept", b"1".to_vec()).await.expect("written");
            File::create("risky").await.expect("made");
            cut_power();
            fs::read_dir("").await.expect("a folder")
        });
        let names: Vec<_> =
            listed.expect("the world goes on").into_iter().map(|e| e.name).collect();
        assert!(names.contains(&"kept".into()), "seed {seed}: {names:?}");
        vanished += usize::from(!names.contains(&"risky".into()));
    }
    assert!((1..20).contains(&vanished), "by chance: {vanished} of 20");
}

#[test]
fn a_full_disk_refuses_and_works_again_with_room() {
    block_on(&simulated(1, Faults::default()), async {
        set_disk_capacity(Some(1500));
        let file = File::create("f").await.expect("made");
        file.write_all_at(vec![1; 1000], 0).await.0.expect("room");
        let full = file.write_all_at(vec![2; 1000], 1000).await.0;
        assert_eq!(full.map_err(|error| error.kind()), Err(std::io::ErrorKind::StorageFull));
        set_disk_capacity(None);
        file.write_all_at(vec![2; 1000], 1000).await.0.expect("room again");
        assert_eq!(file.len().await.expect("open"), 2000);
    })
    .expect("the world goes on");
}

#[test]
fn what_was_written_durably_outlives_the_power() {
    for seed in 0..20 {
        block_on(&simulated(seed, Faults::default()), async {
            let file = File::create("f").await.expect("made");
            fs::sync_dir("").await.expect("durable");
            file.write_all_at_durably(vec![1; 1000], 0).await.0.expect("durable");
            cut_power();
            assert_eq!(fs::read("f").await.expect("the name is durable"), [1; 1000]);
        })
        .expect("the world goes on");
    }
}

#[test]
fn a_failed_durable_write_is_an_error_and_not_there() {
    block_on(&where_syncs_fail(), async {
        let file = File::create("f").await.expect("made");
        fs::sync_dir("").await.expect("durable");
        file.write_all_at_durably(vec![1; 1000], 0).await.0.expect_err("syncs fail here");
        cut_power();
        assert_eq!(fs::read("f").await.expect("the name is durable"), b"");
    })
    .expect("the world goes on");
}

#[test]
fn a_failed_sync_loses_the_writes_before_it_for_good() {
    block_on(&where_syncs_fail(), async {
        let file = File::create("f").await.expect("made");
        fs::sync_dir("").await.expect("durable");
        file.write_all_at(vec![1; 1000], 0).await.0.expect("written");
        file.sync_data().await.expect_err("syncs fail here");
        cut_power();
        assert_eq!(fs::read("f").await.expect("the name is durable"), b"");
    })
    .expect("the world goes on");
}
