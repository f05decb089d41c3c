//! Two sessions talk through byte slices cut anywhere.

use rustls::pki_types::ServerName;

use super::*;
use crate::tls::test_certificates::{Authority, provider};
use crate::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions, SslMode, Versions};

fn pair(versions: Versions) -> (Session, Session) {
    let authority = Authority::new();
    let options =
        ServerTlsOptions { versions, ..ServerTlsOptions::new(authority.identity("localhost")) };
    let server = ServerTls::new(&options, provider()).unwrap();
    let client = ClientTls::new(
        &ClientTlsOptions {
            authorities: Some(authority.pem()),
            ..ClientTlsOptions::new(SslMode::VerifyFull)
        },
        provider(),
    )
    .unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    (
        Session::server(Arc::clone(&server.current().config)).unwrap(),
        Session::client(Arc::clone(&client.config), name).unwrap(),
    )
}

/// One end with what it has received but not yet consumed.
struct End {
    session: Session,
    received: Vec<u8>,
}

impl End {
    fn new(session: Session) -> Self {
        Self { session, received: Vec::new() }
    }

    /// Takes bytes in pieces of `step`; what it answers.
    fn feed(&mut self, bytes: &[u8], step: usize) -> Result<Vec<u8>, Error> {
        let mut output = Output::default();
        if bytes.is_empty() {
            self.session.receive(&mut [], &mut output)?;
        }
        for piece in bytes.chunks(step) {
            self.session.receive(&mut piece.to_vec(), &mut output)?;
        }
        self.received.append(&mut output.plain);
        Ok(output.outgoing)
    }
}

fn handshake(server: &mut End, client: &mut End, step: usize) {
    let mut to_server = client.feed(&[], step).unwrap();
    for _flight in 0..10 {
        let to_client = server.feed(&to_server, step).unwrap();
        to_server = client.feed(&to_client, step).unwrap();
        if to_server.is_empty() && to_client.is_empty() {
            break;
        }
    }
    assert!(!server.session.is_handshaking());
    assert!(!client.session.is_handshaking());
}

#[test]
fn shakes_hands_and_carries_data_however_the_bytes_are_cut() {
    for versions in [Versions::Tls12, Versions::Tls13] {
        for step in [1, 2, 7, 100, 4096, 1 << 20] {
            let (server, client) = pair(versions);
            let (mut server, mut client) = (End::new(server), End::new(client));
            handshake(&mut server, &mut client, step);
            assert_eq!(client.session.alpn().as_deref(), Some(&b"postgresql"[..]));

            let sent: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
            let mut output = Output::default();
            client.session.encrypt(&sent, &mut output).unwrap();
            client.session.encrypt(b"end", &mut output).unwrap();
            server.feed(&output.outgoing, step.max(1000)).unwrap();
            assert_eq!(server.received.len(), sent.len() + 3);
            assert!(server.received.starts_with(&sent) && server.received.ends_with(b"end"));
            assert!(server.session.pending.is_empty());
        }
    }
}

#[test]
fn a_close_is_told_from_an_end() {
    let (server, client) = pair(Versions::All);
    let (mut server, mut client) = (End::new(server), End::new(client));
    handshake(&mut server, &mut client, 4096);
    let mut output = Output::default();
    client.session.encrypt(b"last words", &mut output).unwrap();
    client.session.close(&mut output).unwrap();
    assert!(!server.session.is_peer_closed());
    server.feed(&output.outgoing, 4096).unwrap();
    assert_eq!(server.received, b"last words");
    assert!(server.session.is_peer_closed());
    // The other direction is still open.
    let mut output = Output::default();
    server.session.encrypt(b"reply", &mut output).unwrap();
    server.session.close(&mut output).unwrap();
    client.feed(&output.outgoing, 4096).unwrap();
    assert_eq!(client.received, b"reply");
    assert!(client.session.is_peer_closed());
}

#[test]
fn a_changed_byte_is_an_error_with_an_alert() {
    let (server, client) = pair(Versions::All);
    let (mut server, mut client) = (End::new(server), End::new(client));
    handshake(&mut server, &mut client, 4096);
    let mut output = Output::default();
    client.session.encrypt(b"data", &mut output).unwrap();
    let last = output.outgoing.len() - 1;
    output.outgoing[last] ^= 1;
    let mut alert = Output::default();
    let error = server.session.receive(&mut output.outgoing, &mut alert).unwrap_err();
    assert_eq!(error, Error::DecryptError);
    assert!(alert.plain.is_empty());
    let error = client.feed(&alert.outgoing, 4096).unwrap_err();
    assert!(matches!(error, Error::AlertReceived(_)), "{error}");
}

#[test]
fn garbage_instead_of_a_hello_is_an_error() {
    let (mut server, _client) = pair(Versions::All);
    let mut output = Output::default();
    let mut garbage = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    assert!(server.receive(&mut garbage, &mut output).is_err());
}

#[test]
fn writing_before_the_handshake_is_over_is_an_error() {
    let (mut server, _client) = pair(Versions::All);
    assert!(server.encrypt(b"early", &mut Output::default()).is_err());
}

/// Flips, cuts and repeats bytes of a conversation in which both sides also write at odd moments. Nothing is asserted
/// but that it ends: rustls may report what it likes, and must not panic.
#[test]
fn damage_anywhere_is_an_error_and_never_a_crash() {
    let mut random = crate::random::Rng::seeded(7);
    for _round in 0..400 {
        let (server, client) =
            pair(if random.below(2) == 0 { Versions::Tls12 } else { Versions::Tls13 });
        let mut ends = [client, server];
        let mut in_flight = Output::default();
        if ends[0].receive(&mut [], &mut in_flight).is_err() {
            continue;
        }
        let mut bytes = in_flight.outgoing;
        for turn in 1..12 {
            let end = &mut ends[turn % 2];
            if random.below(4) == 0 && !bytes.is_empty() {
                let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                match random.below(3) {
                    0 => bytes[at] ^= 1 << random.below(8),
                    1 => bytes.truncate(at),
                    _ => bytes.extend_from_within(at..),
                }
            }
            let mut output = Output::default();
            let step = 1 + usize::try_from(random.below(600)).unwrap();
            for piece in bytes.chunks(step) {
                end.receive(&mut piece.to_vec(), &mut output).ok();
                if !end.is_handshaking() {
                    end.encrypt(b"data", &mut output).ok();
                }
            }
            if turn == 11 {
                end.close(&mut output).ok();
            }
            bytes = output.outgoing;
        }
    }
}
