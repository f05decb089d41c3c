//! Clients that lie, babble, dawdle and vanish.

use std::time::Duration;

use pg::wire::{frontend, startup};
use pooler::settings::Settings;
use runtime::clock;

use crate::world::{Client, World, run, settings};

/// A client that says these bytes first; what it is answered.
fn check_opening(opening: &[u8], expected: &[&str]) {
    run(settings(), async |world| {
        let mut client = world.connect().await;
        client.send(opening).await;
        assert_eq!(client.answers().await, expected, "{:?}", opening.escape_ascii().to_string());
    });
}

/// A start-up packet of this version and body.
fn opening(version: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + body.len()).expect("a short packet");
    [&length.to_be_bytes()[..], &version.to_be_bytes(), body].concat()
}

const V3_0: u32 = 3 << 16;

#[test]
fn what_is_no_postgres_client_is_closed_without_a_word() {
    check_opening(b"GET / HTTP/1.1\r\nHost: howdah\r\n\r\n", &["closed"]);
    check_opening(b"SSH-2.0-OpenSSH_9.6\r\n", &["closed"]);
    check_opening(&[0; 64], &["closed"]);
    check_opening(&[0xff; 64], &["closed"]);
    check_opening(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], &["closed"]);
}

#[test]
fn lengths_that_cannot_be_are_closed_without_a_word() {
    for length in [0_u32, 1, 4, 7, 10_005, 1 << 20, u32::MAX] {
        check_opening(&[length.to_be_bytes(), V3_0.to_be_bytes()].concat(), &["closed"]);
    }
}

#[test]
fn a_start_up_packet_without_sense_is_explained() {
    check_opening(
        &opening(V3_0, b"\0"),
        &["FATAL 28000 no PostgreSQL user name specified in startup packet", "closed"],
    );
    check_opening(
        &opening(2 << 16, b"user\0ann\0\0"),
        &["FATAL 0A000 unsupported frontend protocol 2.0: server supports 3.0 to 3.2", "closed"],
    );
    check_opening(
        &opening(V3_0, b"user\0ann"),
        &["FATAL 08P01 invalid startup packet layout: expected terminator as last byte", "closed"],
    );
    check_opening(
        &opening(V3_0, b"user\0ann\0options\0-c\0\0"),
        &["FATAL 08P01 unsupported startup parameter in options", "closed"],
    );
    check_opening(
        &opening(V3_0, b"user\0ann\0bad name\0x\0\0"),
        &["FATAL 08P01 unsupported startup parameter: \"bad name\"", "closed"],
    );
}

#[test]
fn too_many_start_up_parameters_are_refused() {
    let mut body = b"user\0ann\0".to_vec();
    for index in 0..200 {
        body.extend_from_slice(format!("a.b{index}\0x\0").as_bytes());
    }
    body.push(0);
    check_opening(&opening(V3_0, &body), &["FATAL 54000 too many startup parameters", "closed"]);
}

#[test]
fn asking_for_encryption_again_and_again_is_cut_short() {
    run(settings(), async |world| {
        let mut client = world.connect().await;
        let mut request = Vec::new();
        startup::write_ssl_request(&mut request);
        for _time in 0..50 {
            client.send(&request).await;
            clock::sleep(Duration::from_millis(1)).await;
        }
        client.until_closed().await;
    });
}

#[test]
fn a_cancel_request_with_a_wrong_key_does_nothing() {
    run(settings(), async |world| {
        for (process_id, key) in [(0, vec![0; 4]), (u32::MAX, vec![7; 4]), (1, vec![9; 256])] {
            let mut client = world.connect().await;
            let mut out = Vec::new();
            startup::write_cancel_request(&mut out, process_id, &key);
            client.send(&out).await;
            assert_eq!(client.answers().await, ["closed"]);
        }
        assert_eq!(world.server.cancels.get(), 0);
    });
}

#[test]
fn a_start_up_that_never_ends_is_ended() {
    let settings = Settings { client_login_timeout: Duration::from_millis(150), ..settings() };
    run(settings, async |world| {
        let packet = opening(V3_0, b"user\0ann\0\0");
        let mut silent = world.connect().await;
        let mut half = world.connect().await;
        half.send(&packet[..10]).await;
        let mut dripping = world.connect().await;
        for byte in &packet[..packet.len() - 1] {
            dripping.send(&[*byte]).await;
            clock::sleep(Duration::from_millis(20)).await;
        }
        for client in [&mut silent, &mut half, &mut dripping] {
            assert_eq!(client.answers().await, ["closed"]);
        }
    });
}

#[test]
fn bytes_may_come_one_by_one() {
    run(settings(), async |world| {
        let mut client = world.connect().await;
        let mut out = opening(V3_0, b"user\0ann\0\0");
        frontend::write::query(&mut out, "slowly");
        for byte in out {
            client.send(&[byte]).await;
            clock::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(client.answers().await, ["ready I"]);
        assert_eq!(client.answers().await, ["row slowly", "SELECT 1", "ready I"]);
    });
}

/// A client that has logged in and then says these bytes.
fn check_session(bytes: &[u8], expected: &[&str]) {
    run(settings(), async |world| {
        let mut client = world.log_in("shop").await;
        client.send(bytes).await;
        let shown = bytes[..bytes.len().min(60)].escape_ascii().to_string();
        assert_eq!(client.answers().await, expected, "{shown}");
    });
}

#[test]
fn messages_that_cannot_be_end_the_session() {
    for (bytes, message) in [
        (&b"?\0\0\0\x04"[..], "invalid frontend message type 63"),
        (b"Q\0\0\0\x03", "invalid message length"),
        (b"Q\0\0\0\0", "invalid message length"),
        (b"Q\xff\xff\xff\xff", "invalid message length"),
        (b"Q\x7f\xff\xff\xff", "invalid message length"),
        (b"\0\0\0\0\0\0\0\0", "invalid frontend message type 0"),
        (b"p\0\0\0\x05\0", "invalid message type 112"),
        (b"P\0\0\0\x06xx", "invalid string in message"),
        (b"B\0\0\0\x05x", "invalid string in message"),
    ] {
        check_session(bytes, &[&format!("FATAL 08P01 {message}"), "closed"]);
    }
}

#[test]
fn a_packet_beyond_the_limit_is_refused_before_it_is_taken_in() {
    let settings = Settings { max_packet_size: 64 * 1024, ..settings() };
    run(settings, async |world| {
        for (bytes, fits) in [(60 * 1024_usize, true), (64 * 1024, false), (1 << 20, false)] {
            let mut client = world.log_in("shop").await;
            client.query(&"x".repeat(bytes)).await;
            let answers = client.answers().await;
            match fits {
                true => assert_eq!(answers[1..], ["SELECT 1", "ready I"], "{bytes}"),
                false => assert_eq!(
                    answers,
                    ["FATAL 08P01 message is longer than max_packet_size", "closed"]
                ),
            }
        }
    });
}

#[test]
fn a_tls_handshake_that_is_none_is_closed() {
    let folder = std::env::temp_dir().join(format!("howdah-bad-tls-{}", std::process::id()));
    runtime::fs::blocking::create_dir_all(&folder).expect("a folder for the test");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        runtime::fs::blocking::write_atomic(&path, text.as_bytes()).expect("a writable folder");
        Some(path)
    };
    let settings = Settings {
        client_tls_cert_file: write("server.crt", made.cert.pem()),
        client_tls_key_file: write("server.key", made.signing_key.serialize_pem()),
        client_login_timeout: Duration::from_millis(200),
        ..settings()
    };
    run(settings, async |world| {
        let mut request = Vec::new();
        startup::write_ssl_request(&mut request);
        let half_hello = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..];
        for hello in [&b"Q\0\0\0\x04"[..], &[0; 300], &[0xff; 300], half_hello] {
            let mut client = world.connect().await;
            client.send(&request).await;
            let answer = client.stream.recv().await.expect("an answer");
            assert_eq!(&*answer, b"S");
            client.send(hello).await;
            client.until_closed().await;
        }
        // Behind the request, before the answer: bytes that would pass for encrypted ones.
        let mut client = world.connect().await;
        client.send(&[&request[..], half_hello].concat()).await;
        client.until_closed().await;
    });
    runtime::fs::blocking::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn nobody_sees_what_a_truncated_message_was_to_be() {
    run(settings(), async |world| {
        for bytes in [&b"Q"[..], b"Q\0\0", b"Q\0\0\0\x20half a que", b"P\0\0\0\x20s\0half"] {
            let mut client = world.log_in("shop").await;
            client.send(bytes).await;
            drop(client);
        }
        world.check_that_all_is_well().await;
        let queries = world.server.queries.borrow();
        assert!(queries.iter().all(|query| !query.contains("half")), "{queries:?}");
    });
}

/// Clients that go away at a bad moment, `how` each of them.
async fn vanish(world: &World, how: impl AsyncFn(&mut Client)) {
    for abruptly in [false, true] {
        let mut client = world.log_in("shop").await;
        how(&mut client).await;
        clock::sleep(Duration::from_millis(20)).await;
        if abruptly {
            client.stream.abort()
        } else {
            drop(client)
        }
        world.check_that_all_is_well().await;
    }
}

#[test]
fn clients_that_vanish_give_their_servers_back() {
    run(settings(), async |world| {
        vanish(world, async |_client| {}).await;
        vanish(world, async |client| client.query("slow rows").await).await;
        vanish(world, async |client| client.query("hang").await).await;
        vanish(world, async |client| {
            client.query("begin").await;
            assert_eq!(client.answers().await, ["BEGIN", "ready T"]);
        })
        .await;
        vanish(world, async |client| {
            client.query("begin").await;
            client.query("hang").await;
        })
        .await;
        vanish(world, async |client| {
            let mut out = Vec::new();
            frontend::write::parse(&mut out, "s", "select", &[]);
            frontend::write::flush(&mut out);
            client.send(&out).await;
        })
        .await;
        vanish(world, async |client| client.send(b"Q\0\0\0\x20half a query").await).await;
    });
}

#[test]
fn a_clients_good_bye_within_a_transaction_does_not_leave_it_open() {
    run(settings(), async |world| {
        for _time in 0..4 {
            let mut client = world.log_in("shop").await;
            client.query("begin").await;
            assert_eq!(client.answers().await, ["BEGIN", "ready T"]);
            let mut out = Vec::new();
            frontend::write::terminate(&mut out);
            client.send(&out).await;
            assert_eq!(client.answers().await, ["closed"]);
        }
        let mut client = world.log_in("shop").await;
        client.query("outside").await;
        assert_eq!(client.answers().await, ["row outside", "SELECT 1", "ready I"]);
    });
}

#[test]
fn who_vanishes_from_the_queue_is_not_served() {
    let settings = Settings { default_pool_size: 1, ..settings() };
    run(settings, async |world| {
        let mut holder = world.log_in("shop").await;
        holder.query("begin").await;
        assert_eq!(holder.answers().await, ["BEGIN", "ready T"]);
        let mut gone = world.log_in("shop").await;
        gone.query("of the one who left").await;
        let mut patient = world.log_in("shop").await;
        patient.query("of the patient one").await;
        clock::sleep(Duration::from_millis(20)).await;
        drop(gone);
        clock::sleep(Duration::from_millis(20)).await;
        holder.query("done").await;
        assert_eq!(holder.answers().await, ["row done", "SELECT 1", "ready I"]);
        assert_eq!(patient.answers().await, ["row of the patient one", "SELECT 1", "ready I"]);
        let queries = world.server.queries.borrow();
        assert!(!queries.iter().any(|query| query == "of the one who left"), "{queries:?}");
    });
}

#[test]
fn the_console_bears_nonsense() {
    run(settings(), async |world| {
        for bytes in [&b"?\0\0\0\x04"[..], b"Q\xff\xff\xff\xff", b"Q\0\0\0\x05x", b"d\0\0\0\x04"] {
            let mut client = world.log_in("howdah").await;
            client.send(bytes).await;
            let answers = client.answers().await;
            assert!(answers[0].starts_with("FATAL 08P01 "), "{answers:?}");
            assert_eq!(answers[1..], ["closed"]);
        }
        assert_eq!(
            world.console("DROP TABLE everything").await,
            ["ERROR 42601 invalid command 'DROP TABLE everything', use SHOW HELP;", "ready I"]
        );
    });
}
