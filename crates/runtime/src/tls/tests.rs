//! Encrypted connections over real sockets: modes, certificates, sizes, ends.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::test_certificates::{Authority, provider};
use super::*;
use crate::clock;
use crate::executor::{block_on, spawn};
use crate::io::Options;
use crate::net::{ListenOptions, Listener, Stream};

fn on_core<F: Future>(future: F) -> F::Output {
    block_on(&Options::default(), async {
        clock::timeout(Duration::from_secs(60), future).await.expect("no test takes a minute")
    })
    .unwrap()
}

/// Two ends of a TCP connection.
async fn sockets() -> (Stream, Stream) {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&any, &ListenOptions::default()).unwrap();
    let address = listener.local_address();
    let connecting = spawn(async move { Stream::connect(&address).await.unwrap() });
    let (accepted, _) = listener.accept().await.unwrap();
    (accepted, connecting.await.unwrap())
}

type Ends = (Result<Box<TlsStream>, TlsError>, Result<Box<TlsStream>, TlsError>);

/// Shakes hands; how that went at the server and at the client.
async fn shake_hands(server: &ServerTls, client: &ClientTls, host: &str) -> Ends {
    let (accepted, connected) = sockets().await;
    let (server, client, host) = (server.clone(), client.clone(), host.to_owned());
    let accepting = spawn(async move { server.accept(accepted).await });
    let connecting = spawn(async move { client.connect(connected, &host).await });
    (accepting.await.unwrap(), connecting.await.unwrap())
}

fn server(authority: &Authority, name: &str) -> ServerTls {
    ServerTls::new(&ServerTlsOptions::new(authority.identity(name)), provider()).unwrap()
}

fn client(mode: SslMode, authority: Option<&Authority>) -> ClientTls {
    let authorities = authority.map(Authority::pem);
    let options = ClientTlsOptions { authorities, ..ClientTlsOptions::new(mode) };
    ClientTls::new(&options, provider()).unwrap()
}

async fn pair() -> (Box<TlsStream>, Box<TlsStream>) {
    let authority = Authority::new();
    let server = server(&authority, "localhost");
    let client = client(SslMode::VerifyFull, Some(&authority));
    let (server, client) = shake_hands(&server, &client, "localhost").await;
    (server.unwrap(), client.unwrap())
}

async fn read_all(stream: &TlsStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let chunk = stream.recv().await.unwrap();
        if chunk.is_empty() {
            return all;
        }
        all.extend_from_slice(&chunk);
    }
}

#[test]
fn data_flows_both_ways_and_ends() {
    on_core(async {
        let (server, client) = pair().await;
        assert_eq!((server.version(), client.version()), ("TLSv1.3", "TLSv1.3"));
        assert_eq!(server.cipher(), "TLS_AES_256_GCM_SHA384");
        assert_eq!(server.alpn().as_deref(), Some(ALPN_POSTGRESQL));
        client.queue(b"first, ");
        client.queue(b"");
        client.queue(b"second");
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&server).await, b"first, second");
        // Half-closed: the answer still arrives.
        server.send(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&client).await, b"answer");
        assert_eq!(read_all(&client).await, b"", "the end stays the end");
    });
}

fn byte_at(index: usize) -> u8 {
    u8::try_from(index % 253).unwrap()
}

#[test]
fn large_data_passes_in_both_directions_at_once() {
    on_core(async {
        const BYTES: usize = 3_000_000;
        let (server, client) = pair().await;
        let flow = |stream: Box<TlsStream>, seed: u8| {
            let stream = Rc::new(stream);
            let writer = Rc::clone(&stream);
            let sending = spawn(async move {
                let data: Vec<u8> = (0..BYTES).map(|i| byte_at(i) ^ seed).collect();
                let mut rest = data.as_slice();
                let mut size = 1;
                while !rest.is_empty() {
                    let (piece, later) = rest.split_at(size.min(rest.len()));
                    writer.send(piece).await.unwrap();
                    rest = later;
                    size = (size * 3) % 200_000 + 1;
                }
                writer.shutdown().await.unwrap();
            });
            spawn(async move {
                let received = read_all(&stream).await;
                sending.await.unwrap();
                assert_eq!(received.len(), BYTES);
                let theirs = 3 - seed;
                assert!(received.iter().enumerate().all(|(i, b)| *b == byte_at(i) ^ theirs));
            })
        };
        let (one, two) = (flow(server, 1), flow(client, 2));
        one.await.unwrap();
        two.await.unwrap();
    });
}

#[test]
fn bytes_put_back_come_again_first() {
    on_core(async {
        let (server, client) = pair().await;
        client.send(b"abcdef").await.unwrap();
        let mut chunk = server.recv().await.unwrap();
        chunk.advance(2);
        server.unrecv(chunk);
        assert_eq!(&*server.try_recv().unwrap().unwrap(), b"cdef");
        assert!(server.try_recv().is_none());
    });
}

#[test]
fn the_first_bytes_of_a_hasty_client_are_not_lost() {
    on_core(async {
        let authority = Authority::new();
        let (accepted, connected) = sockets().await;
        let tls = server(&authority, "localhost");
        let accepting = spawn(async move {
            // So late that the client's Finished and first data are one read.
            clock::sleep(Duration::from_millis(20)).await;
            let server = tls.accept(accepted).await.unwrap();
            server.recv().await.unwrap().to_vec()
        });
        let client = client(SslMode::Require, None).connect(connected, "x").await.unwrap();
        client.send(b"hello").await.unwrap();
        assert_eq!(accepting.await.unwrap(), b"hello");
    });
}

#[test]
fn modes_check_what_they_say() {
    on_core(async {
        let ours = Authority::new();
        let other = Authority::new();
        let tls = server(&ours, "db.example.org");
        let host = "db.example.org";
        for (mode, authority, host, works) in [
            (SslMode::Require, None, "other.example.org", true),
            (SslMode::Prefer, Some(&other), "not a name", true),
            (SslMode::VerifyCa, Some(&ours), "other.example.org", true),
            (SslMode::VerifyCa, Some(&other), host, false),
            (SslMode::VerifyFull, Some(&ours), host, true),
            (SslMode::VerifyFull, Some(&ours), "other.example.org", false),
            (SslMode::VerifyFull, Some(&ours), "127.0.0.1", false),
            (SslMode::VerifyFull, Some(&ours), "not a name", false),
            (SslMode::VerifyFull, Some(&other), host, false),
        ] {
            let (_, outcome) = shake_hands(&tls, &client(mode, authority), host).await;
            assert_eq!(outcome.is_ok(), works, "{mode} for {host}: {outcome:?}");
        }
    });
}

#[test]
fn a_common_name_counts_where_there_is_no_other() {
    on_core(async {
        let authority = Authority::new();
        let options = ServerTlsOptions::new(authority.identity_by_common_name("db.example.org"));
        let tls = ServerTls::new(&options, provider()).unwrap();
        let client = client(SslMode::VerifyFull, Some(&authority));
        let (_, outcome) = shake_hands(&tls, &client, "db.example.org").await;
        assert!(outcome.is_ok(), "{outcome:?}");
        let (_, outcome) = shake_hands(&tls, &client, "db2.example.org").await;
        assert!(outcome.is_err());
    });
}

#[test]
fn a_listed_self_signed_certificate_is_trusted_although_it_is_an_authority() {
    on_core(async {
        let authority = Authority::new();
        let identity = authority.own_identity();
        let tls = ServerTls::new(&ServerTlsOptions::new(identity), provider()).unwrap();
        let (_, outcome) =
            shake_hands(&tls, &client(SslMode::VerifyCa, Some(&authority)), "x").await;
        assert!(outcome.is_ok(), "{outcome:?}");
        let stranger = Authority::new();
        let (_, outcome) =
            shake_hands(&tls, &client(SslMode::VerifyCa, Some(&stranger)), "x").await;
        assert!(outcome.is_err());
    });
}

#[test]
fn client_certificates_are_asked_for_checked_and_shown() {
    on_core(async {
        let authority = Authority::new();
        let stranger = Authority::new();
        let serve = |client_certificates| {
            let options = ServerTlsOptions {
                client_certificates,
                ..ServerTlsOptions::new(authority.identity("localhost"))
            };
            ServerTls::new(&options, provider()).unwrap()
        };
        let show = |identity| {
            let options = ClientTlsOptions { identity, ..ClientTlsOptions::new(SslMode::Require) };
            ClientTls::new(&options, provider()).unwrap()
        };
        let app = || Some(authority.identity("app"));
        let required = serve(ClientCertificates::Required(authority.pem()));
        let optional = serve(ClientCertificates::Optional(authority.pem()));
        for (tls, identity, expected) in [
            (&required, app(), Some(Some("app"))),
            (&required, None, None),
            (&required, Some(stranger.identity("app")), None),
            (&optional, app(), Some(Some("app"))),
            (&optional, None, Some(None)),
            (&optional, Some(stranger.identity("app")), None),
            (&serve(ClientCertificates::Ignored), app(), Some(None)),
        ] {
            let (server, _client) = shake_hands(tls, &show(identity), "localhost").await;
            let seen = server.ok().map(|server| server.peer_certificate());
            let names = seen.map(|seen| seen.map(|seen| (seen.common_name, seen.dns_names)));
            let expected = expected.map(|expected| {
                expected.map(|name| (Some(name.to_owned()), vec![name.to_owned()]))
            });
            assert_eq!(names, expected);
        }
    });
}

#[test]
fn both_ends_bind_the_channel_to_the_same_certificate() {
    on_core(async {
        let (server, client) = pair().await;
        let hash = server.end_point_hash().unwrap();
        assert_eq!(hash.len(), 32);
        assert_eq!(client.end_point_hash(), Some(hash));
        assert_eq!(server.peer_certificate(), None);
        let certificate = client.peer_certificate().unwrap();
        assert_eq!(certificate.dns_names, ["localhost"]);
    });
}

#[test]
fn a_reload_is_for_new_connections() {
    on_core(async {
        let (old, new) = (Authority::new(), Authority::new());
        let tls = server(&old, "localhost");
        let clone = tls.clone();
        let (server_end, client_end) =
            shake_hands(&tls, &client(SslMode::VerifyCa, Some(&old)), "localhost").await;
        let (server_end, client_end) = (server_end.unwrap(), client_end.unwrap());

        let broken = Identity { key: old.identity("x").key, ..new.identity("localhost") };
        assert!(tls.reload(&ServerTlsOptions::new(broken), provider()).is_err());
        let trusted = client(SslMode::VerifyCa, Some(&old));
        assert!(shake_hands(&tls, &trusted, "localhost").await.1.is_ok(), "the old one stays");

        let options = ServerTlsOptions::new(new.identity("localhost"));
        tls.reload(&options, provider()).unwrap();
        assert!(shake_hands(&clone, &trusted, "localhost").await.1.is_err());
        let trusting = client(SslMode::VerifyCa, Some(&new));
        assert!(shake_hands(&clone, &trusting, "localhost").await.1.is_ok());

        client_end.send(b"still here").await.unwrap();
        assert_eq!(&*server_end.recv().await.unwrap(), b"still here");
    });
}

#[test]
fn versions_can_be_limited() {
    on_core(async {
        let authority = Authority::new();
        for (versions, name) in [(Versions::Tls12, "TLSv1.2"), (Versions::Tls13, "TLSv1.3")] {
            let options =
                ServerTlsOptions { versions, ..ServerTlsOptions::new(authority.identity("x")) };
            let tls = ServerTls::new(&options, provider()).unwrap();
            let (server, client) = shake_hands(&tls, &client(SslMode::Require, None), "x").await;
            let (server, client) = (server.unwrap(), client.unwrap());
            assert_eq!(server.version(), name);
            client.send(b"data").await.unwrap();
            assert_eq!(&*server.recv().await.unwrap(), b"data");
        }
    });
}

#[test]
fn a_client_that_speaks_no_tls_gets_an_error_and_so_do_we() {
    on_core(async {
        let authority = Authority::new();
        for garbage in [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16; 100]]
        {
            let (accepted, connected) = sockets().await;
            connected.send(garbage).await.unwrap();
            connected.shutdown().await.unwrap();
            let outcome = server(&authority, "x").accept(accepted).await;
            assert!(outcome.is_err());
        }
    });
}

#[test]
fn a_client_that_goes_away_or_never_ends_is_refused() {
    on_core(async {
        let authority = Authority::new();
        let (accepted, connected) = sockets().await;
        drop(connected);
        let outcome = server(&authority, "x").accept(accepted).await;
        assert!(matches!(outcome, Err(TlsError::Closed | TlsError::Io(_))), "{outcome:?}");

        // Records of a handshake message that claims to be long and goes on and on.
        let (accepted, connected) = sockets().await;
        let accepting = spawn(async move { server(&authority, "x").accept(accepted).await });
        let mut record = vec![0x16, 3, 1, 0x40, 0];
        record.extend([0; 0x4000]);
        record[5..9].copy_from_slice(&[1, 0, 0xff, 0xff]);
        for _ in 0..20 {
            if connected.send(&record).await.is_err() {
                break;
            }
            record[5..9].copy_from_slice(&[0; 4]);
        }
        assert!(accepting.await.unwrap().is_err());
    });
}

#[test]
fn what_is_not_from_the_peer_is_an_error_and_stays_one() {
    on_core(async {
        let (server, client) = pair().await;
        client.send(b"good").await.unwrap();
        assert_eq!(&*server.recv().await.unwrap(), b"good");
        client.stream().send(&[0x17, 3, 3, 0, 20]).await.unwrap();
        client.stream().send(&[0; 20]).await.unwrap();
        for _ in 0..2 {
            let error = server.recv().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        }
        server.queue(b"into the void");
        assert!(server.sent().await.is_err());
    });
}

#[test]
fn dropping_a_connection_says_so_and_aborting_does_not() {
    on_core(async {
        let (server, client) = pair().await;
        client.queue(b"bye");
        drop(client);
        assert_eq!(read_all(&server).await, b"bye");

        let (server, client) = pair().await;
        client.abort();
        assert!(server.recv().await.is_err(), "a reset, not an end");
    });
}

#[test]
fn a_connection_moves_between_cores() {
    let authority = Authority::new();
    let (detached, client_end) = on_core(async {
        let tls = server(&authority, "localhost");
        let (server, client) =
            shake_hands(&tls, &client(SslMode::Require, None), "localhost").await;
        let (server, client) = (server.unwrap(), client.unwrap());
        client.send(b"read before, ").await.unwrap();
        let chunk = server.recv().await.unwrap();
        server.unrecv(chunk);
        let server = Transport::from(server).detach().unwrap();
        (server, Transport::from(client).detach().unwrap())
    });
    let other = std::thread::spawn(move || {
        on_core(async {
            let server = Transport::attach(detached).unwrap();
            let mut all = Vec::new();
            while all.len() < 18 {
                all.extend_from_slice(&server.recv().await.unwrap());
            }
            server.send(b"got it").await.unwrap();
            server.shutdown().await.unwrap();
            all
        })
    });
    on_core(async {
        let client = Transport::attach(client_end).unwrap();
        client.send(b"after").await.unwrap();
        assert_eq!(&*client.recv().await.unwrap(), b"got it");
        assert!(client.recv().await.unwrap().is_empty());
    });
    assert_eq!(other.join().unwrap(), b"read before, after");
}

#[test]
fn files_at_fault_are_named() {
    let authority = Authority::new();
    let identity = authority.identity("x");
    let refuse = |identity: Identity| {
        ServerTls::new(&ServerTlsOptions::new(identity), provider()).unwrap_err().to_string()
    };
    let empty = |name: &str| Pem { name: name.to_owned(), text: b"nothing\n".to_vec() };
    assert_eq!(
        refuse(Identity { certificates: empty("server.crt"), ..identity.clone() }),
        "could not read \"server.crt\": it holds no certificate"
    );
    assert_eq!(
        refuse(Identity { key: empty("server.key"), ..identity.clone() }),
        "could not read \"server.key\": it holds no private key (one with a pass phrase is not supported)"
    );
    let other = authority.identity("y").key;
    let error = refuse(Identity { key: other, ..identity });
    assert!(
        error.starts_with("could not use certificate \"end.crt\" with key \"end.key\": "),
        "{error}"
    );
    let error = ClientTls::new(&ClientTlsOptions::new(SslMode::VerifyCa), provider()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not use sslmode \"verify-ca\": it needs a file of certificate authorities"
    );
}
