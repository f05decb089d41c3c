//! RFC 7677's example, exchanges between our two sides, and everything that must be refused.

use super::client::Credentials;
use super::*;
use crate::auth::sasl::{ClientBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

const PLAIN: &[u8] = SCRAM_SHA_256.as_bytes();
const PLUS: &[u8] = SCRAM_SHA_256_PLUS.as_bytes();

fn password(password: &str) -> Credentials {
    Credentials::Password { password: password.as_bytes().to_vec(), cached: None }
}

fn secret(password: &str) -> Secret {
    Secret::of(password.as_bytes(), b"0123456789abcdef", 64)
}

/// Runs a whole exchange; each side's outcome.
fn exchange(
    client: &mut Client,
    server: &mut Server,
) -> (Result<(), ScramError>, Result<Keys, ScramError>) {
    let first = client.first().unwrap();
    let server_first = match server.on_client_first(client.mechanism().as_bytes(), first.as_bytes())
    {
        Ok(message) => message,
        Err(error) => return (Ok(()), Err(error)),
    };
    let last = match client.on_server_first(server_first.as_bytes()) {
        Ok(message) => message,
        Err(error) => return (Err(error), Err(ScramError::OutOfTurn)),
    };
    match server.on_client_final(last.as_bytes()) {
        Ok(accepted) => {
            (client.on_server_final(accepted.server_final.as_bytes()), Ok(accepted.keys))
        }
        Err(error) => (Ok(()), Err(error)),
    }
}

#[test]
fn computes_the_example_of_rfc_7677() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = Keys::of(b"pencil", &salt, 4096);
    // The RFC's client names a user; the messages are its own.
    let auth_message: [&[u8]; 5] = [
        b"n=user,r=rOprNGfwEbeRWgbNEkqO",
        b",",
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b",",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    ];
    let proof = xor(&keys.client_key, &hmac(&sha256(&keys.client_key), &auth_message));
    assert_eq!(BASE64.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let signature = hmac(&keys.server_key, &auth_message);
    assert_eq!(BASE64.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn serves_the_client_of_rfc_7677() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let secret = Secret::of(b"pencil", &salt, 4096);
    let mut server = Server::new(secret, ServerBinding::None, [0; NONCE_BYTES]);
    server.nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
    let first = server.on_client_first(PLAIN, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
    assert_eq!(
        first,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let accepted = server
        .on_client_final(b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
        .unwrap();
    assert_eq!(accepted.server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn a_secret_reads_back() {
    let secret = secret("pencil");
    assert_eq!(secret.to_string().parse(), Ok(secret));
}

#[test]
fn refuses_secrets_that_postgres_would_not_write() {
    let good = secret("pencil").to_string();
    for (from, to) in [
        ("SCRAM-SHA-256", "SCRAM-SHA-512"),
        ("$64:", "$0:"),
        ("$64:", "$-1:"),
        ("$64:", "$4000000000:"),
        ("MDEy", "!!!!"),
        (":", ";"),
        ("=", ""),
    ] {
        assert_eq!(good.replace(from, to).parse::<Secret>(), Err(InvalidSecret), "{from} -> {to}");
    }
}

#[test]
fn each_side_accepts_the_other() {
    let mut client = Client::new(password("pencil"), ClientBinding::None, [1; NONCE_BYTES]);
    let mut server = Server::new(secret("pencil"), ServerBinding::None, [2; NONCE_BYTES]);
    let (client_says, server_says) = exchange(&mut client, &mut server);
    assert_eq!(client_says, Ok(()));
    assert!(server_says.is_ok());
    assert!(client.into_keys().is_some_and(|keys| keys.secret() == secret("pencil")));
}

#[test]
fn a_wrong_password_is_refused() {
    let mut client = Client::new(password("pencils"), ClientBinding::None, [1; NONCE_BYTES]);
    let mut server = Server::new(secret("pencil"), ServerBinding::None, [2; NONCE_BYTES]);
    assert_eq!(exchange(&mut client, &mut server).1.unwrap_err(), ScramError::WrongPassword);
    assert!(client.into_keys().is_none());
}

#[test]
fn keys_of_a_log_in_open_the_same_secret_elsewhere_and_no_other() {
    let mut client = Client::new(password("pencil"), ClientBinding::None, [1; NONCE_BYTES]);
    let mut server = Server::new(secret("pencil"), ServerBinding::None, [2; NONCE_BYTES]);
    let keys = exchange(&mut client, &mut server).1.unwrap();

    let relay = |secret| {
        let credentials = Credentials::Keys(keys.clone());
        let mut client = Client::new(credentials, ClientBinding::None, [3; NONCE_BYTES]);
        let mut server = Server::new(secret, ServerBinding::None, [4; NONCE_BYTES]);
        exchange(&mut client, &mut server)
    };
    let (client_says, server_says) = relay(secret("pencil"));
    assert_eq!(client_says, Ok(()));
    assert!(server_says.is_ok());

    let other_salt = Secret::of(b"pencil", b"another salt", 64);
    assert_eq!(relay(other_salt).0, Err(ScramError::OtherSecret));
    let other_count = Secret::of(b"pencil", b"0123456789abcdef", 65);
    assert_eq!(relay(other_count).0, Err(ScramError::OtherSecret));
    assert_eq!(relay(secret("other")).1.unwrap_err(), ScramError::WrongPassword);
}

#[test]
fn cached_keys_spare_the_work_while_the_salt_stays() {
    // Wrong keys under the right salt show that they were used instead of the password.
    let mut wrong = Keys::of(b"other", b"0123456789abcdef", 64);
    let log_in = |cached: &Keys| {
        let password = b"pencil".to_vec();
        let credentials = Credentials::Password { password, cached: Some(cached.clone()) };
        let mut client = Client::new(credentials, ClientBinding::None, [3; NONCE_BYTES]);
        let mut server = Server::new(secret("pencil"), ServerBinding::None, [4; NONCE_BYTES]);
        exchange(&mut client, &mut server).1
    };
    assert_eq!(log_in(&wrong).unwrap_err(), ScramError::WrongPassword);
    wrong.salt = b"old salt".to_vec();
    assert!(log_in(&wrong).is_ok());
}

#[test]
fn a_mock_exchange_looks_real_and_fails() {
    let nonce = [2; NONCE_BYTES];
    let mut server = Server::mock(b"nobody", b"installation", ServerBinding::None, nonce);
    let mut client = Client::new(password("x"), ClientBinding::None, [1; NONCE_BYTES]);
    assert_eq!(exchange(&mut client, &mut server).1.unwrap_err(), ScramError::WrongPassword);
    let salt = |user: &[u8], nonce: &[u8]| Secret::mock(user, nonce).salt;
    assert_eq!(salt(b"nobody", b"i"), salt(b"nobody", b"i"));
    assert_ne!(salt(b"nobody", b"i"), salt(b"anybody", b"i"));
    assert_ne!(salt(b"nobody", b"i"), salt(b"nobody", b"j"));
    assert_eq!(salt(b"nobody", b"i").len(), SALT_BYTES);
}

#[test]
fn binds_to_the_certificate() {
    let bind = |client_hash: &[u8], server_hash: &[u8]| {
        let binding = ClientBinding::EndPoint(client_hash.to_vec());
        let mut client = Client::new(password("pencil"), binding, [1; NONCE_BYTES]);
        let binding = ServerBinding::EndPoint(server_hash.to_vec());
        let mut server = Server::new(secret("pencil"), binding, [2; NONCE_BYTES]);
        exchange(&mut client, &mut server)
    };
    let (client_says, server_says) = bind(b"hash", b"hash");
    assert_eq!(client_says, Ok(()));
    assert!(server_says.is_ok());
    assert!(matches!(bind(b"hash", b"hush").1, Err(ScramError::ChannelBinding(_))));
}

#[test]
fn notices_that_an_offer_of_binding_was_cut() {
    let server = |binding| Server::new(secret("pencil"), binding, [2; NONCE_BYTES]);
    let end_point = || ServerBinding::EndPoint(b"hash".to_vec());
    let mut client = Client::new(password("pencil"), ClientBinding::NotOffered, [1; NONCE_BYTES]);
    let refused = exchange(&mut client, &mut server(end_point())).1;
    assert!(matches!(refused, Err(ScramError::ChannelBinding(_))));

    let mut client = Client::new(password("pencil"), ClientBinding::NotOffered, [1; NONCE_BYTES]);
    assert!(exchange(&mut client, &mut server(ServerBinding::None)).1.is_ok());
    let mut client = Client::new(password("pencil"), ClientBinding::None, [1; NONCE_BYTES]);
    assert!(exchange(&mut client, &mut server(end_point())).1.is_ok());
}

#[test]
fn refuses_a_mechanism_and_a_flag_that_do_not_agree() {
    let end_point = ServerBinding::EndPoint(b"hash".to_vec());
    for (mechanism, message, binding) in [
        (PLUS, &b"n,,n=,r=abc"[..], &end_point),
        (PLUS, b"y,,n=,r=abc", &end_point),
        (PLAIN, b"p=tls-server-end-point,,n=,r=abc", &end_point),
        (PLUS, b"p=tls-server-end-point,,n=,r=abc", &ServerBinding::None),
        (PLUS, b"p=tls-unique,,n=,r=abc", &end_point),
        (b"SCRAM-SHA-1", b"n,,n=,r=abc", &end_point),
    ] {
        let mut server = Server::new(secret("pencil"), binding.clone(), [2; NONCE_BYTES]);
        let answer = server.on_client_first(mechanism, message);
        assert!(matches!(answer, Err(ScramError::Malformed(_))), "{answer:?}");
    }
}

#[test]
fn refuses_broken_first_messages_of_a_client() {
    for message in [
        &b""[..],
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=abc",
        b"n,a=me,n=,r=abc",
        b"n,b,n=,r=abc",
        b"n,,m=ext,n=,r=abc",
        b"n,,r=abc",
        b"n,,n=,r=",
        b"n,,n=,r=a\x01c",
        b"n,,n=,r=a\xFFc",
        &[b'n'; 10_000],
    ] {
        let mut server = Server::new(secret("pencil"), ServerBinding::None, [2; NONCE_BYTES]);
        assert!(server.on_client_first(PLAIN, message).is_err(), "{message:?}");
        // And it stays refused.
        assert_eq!(server.on_client_first(PLAIN, b"n,,n=,r=a"), Err(ScramError::OutOfTurn));
    }
}

#[test]
fn refuses_broken_final_messages_of_a_client() {
    let proof = BASE64.encode([0; 32]);
    let nonce = format!("abc{}", BASE64.encode([2; NONCE_BYTES]));
    let message = |channel: &str, nonce: &str, rest: &str| format!("c={channel},r={nonce}{rest}");
    for (broken, error) in [
        (message("biws", &nonce, &format!(",p={proof}")), ScramError::WrongPassword),
        (message("biws", &nonce, &format!(",x=ignored,p={proof}")), ScramError::WrongPassword),
        (
            message("biws", "abc", &format!(",p={proof}")),
            ScramError::Malformed("Nonce does not match."),
        ),
        (
            message("eSws", &nonce, &format!(",p={proof}")),
            ScramError::Malformed("Unexpected channel-binding attribute in client-final-message."),
        ),
        (
            message("biws", &nonce, ",p=AAAA"),
            ScramError::Malformed("Malformed proof in client-final-message."),
        ),
        (
            message("biws", &nonce, ""),
            ScramError::Malformed("Expected a proof at the end of client-final-message."),
        ),
        (
            message("biws", &nonce, &format!(",p={proof},x=after")),
            ScramError::Malformed("Expected a proof at the end of client-final-message."),
        ),
        ("r=abc".to_owned(), ScramError::Malformed("Expected a channel binding.")),
    ] {
        let mut server = Server::new(secret("pencil"), ServerBinding::None, [2; NONCE_BYTES]);
        server.on_client_first(PLAIN, b"n,,n=,r=abc").unwrap();
        assert_eq!(server.on_client_final(broken.as_bytes()).unwrap_err(), error, "{broken}");
    }
}

#[test]
fn refuses_broken_messages_of_a_server() {
    let nonce = BASE64.encode([1; NONCE_BYTES]);
    for (message, error) in [
        (String::new(), ScramError::Malformed("Expected a nonce.")),
        ("e=other-error".to_owned(), ScramError::Refused),
        ("r=other,s=AAAA,i=1".to_owned(), ScramError::Malformed("Nonce does not match.")),
        (format!("r={nonce},s=AAAA,i=1"), ScramError::Malformed("Nonce does not match.")),
        (format!("r={nonce}x,s=,i=1"), ScramError::Malformed("Malformed salt.")),
        (format!("r={nonce}x,s=?,i=1"), ScramError::Malformed("Malformed salt.")),
        (format!("r={nonce}x,s=AAAA,i=0"), ScramError::Malformed("Malformed iteration count.")),
        (format!("r={nonce}x,s=AAAA,i=-4"), ScramError::Malformed("Malformed iteration count.")),
        (format!("r={nonce}x,s=AAAA"), ScramError::Malformed("Expected an iteration count.")),
        (format!("r={nonce}x,s=AAAA,i=1000001"), ScramError::TooManyIterations),
    ] {
        let mut client = Client::new(password("pencil"), ClientBinding::None, [1; NONCE_BYTES]);
        client.first().unwrap();
        assert_eq!(client.on_server_first(message.as_bytes()), Err(error), "{message}");
    }
}

#[test]
fn a_server_that_does_not_know_the_secret_is_found_out() {
    let mut client = Client::new(password("pencil"), ClientBinding::None, [1; NONCE_BYTES]);
    client.first().unwrap();
    let first = format!("r={}x,s=AAAA,i=1", BASE64.encode([1; NONCE_BYTES]));
    client.on_server_first(first.as_bytes()).unwrap();
    let last = format!("v={}", BASE64.encode([0; 32]));
    assert_eq!(client.on_server_final(last.as_bytes()), Err(ScramError::WrongServer));
    assert_eq!(client.on_server_final(last.as_bytes()), Err(ScramError::OutOfTurn));
}

#[test]
fn prepares_passwords_as_postgres_does() {
    for (password, prepared) in [
        (&b"plain"[..], &b"plain"[..]),
        // RFC 4013, section 3: soft hyphen maps to nothing, the ordinal indicator to a.
        ("I\u{AD}X".as_bytes(), b"IX"),
        ("\u{AA}".as_bytes(), b"a"),
        ("\u{2168}".as_bytes(), b"IX"),
        // Prohibited, not UTF-8, or nothing left: as it stands.
        (b"a\x07b", b"a\x07b"),
        ("\u{627}1".as_bytes(), "\u{627}1".as_bytes()),
        (b"\xFF\xFE", b"\xFF\xFE"),
        ("\u{AD}".as_bytes(), "\u{AD}".as_bytes()),
        (b"", b""),
    ] {
        assert_eq!(prepare(password), prepared, "{password:?}");
    }
}

#[test]
fn shows_no_key() {
    assert_eq!(format!("{:?}", secret("pencil")), "Secret(..)");
    assert_eq!(format!("{:?}", Keys::of(b"pencil", b"salt", 1)), "Keys(..)");
}
