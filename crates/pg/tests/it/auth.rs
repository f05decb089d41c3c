//! Authentication: each side accepts the other, for any password; noise is refused.

use pg::auth::sasl::{ClientBinding, SCRAM_SHA_256, server_end_point};
use pg::auth::scram::client::Credentials;
use pg::auth::scram::{Client, Keys, NONCE_BYTES, ScramError, Secret, Server, ServerBinding};
use pg::auth::{Password, md5};
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) }
}

fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), length)
}

/// A whole log-in.
fn log_in(mut client: Client, mut server: Server) -> Result<(Keys, Keys), ScramError> {
    let first = client.first()?;
    let first = server.on_client_first(client.mechanism().as_bytes(), first.as_bytes())?;
    let last = client.on_server_first(first.as_bytes())?;
    let accepted = server.on_client_final(last.as_bytes())?;
    client.on_server_final(accepted.server_final.as_bytes())?;
    Ok((client.into_keys().ok_or(ScramError::OutOfTurn)?, accepted.keys))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_password_logs_in_and_no_other(
        password in prop_oneof![bytes(0..100), "\\PC{0,20}".prop_map(String::into_bytes)],
        salt in bytes(1..40),
        iterations in 1_u32..20,
        nonces in any::<([u8; NONCE_BYTES], [u8; NONCE_BYTES])>(),
        end_point in prop::option::of(bytes(1..64)),
    ) {
        let secret = Secret::of(&password, &salt, iterations);
        let stored = Password::parse(&secret.to_string());
        prop_assert_eq!(&stored, &Password::Scram(secret.clone()));
        prop_assert!(stored.verify_clear(b"user", &password));

        let (ours, theirs) = match end_point {
            Some(hash) => (ClientBinding::EndPoint(hash.clone()), ServerBinding::EndPoint(hash)),
            None => (ClientBinding::None, ServerBinding::None),
        };
        let client = |password: &[u8]| {
            let credentials = Credentials::Password { password: password.to_vec(), cached: None };
            Client::new(credentials, ours.clone(), nonces.0)
        };
        let server = || Server::new(secret.clone(), theirs.clone(), nonces.1);
        let (client_keys, server_keys) = log_in(client(&password), server()).unwrap();
        prop_assert_eq!(client_keys.secret(), secret.clone());
        prop_assert_eq!(server_keys.secret(), secret.clone());

        // What the server learned logs in by itself.
        let relayed = Client::new(Credentials::Keys(server_keys), ours.clone(), nonces.1);
        prop_assert!(log_in(relayed, server()).is_ok());

        let other = [&password[..], b"!"].concat();
        prop_assert_eq!(log_in(client(&other), server()).unwrap_err(), ScramError::WrongPassword);
    }

    #[test]
    fn a_message_with_one_byte_changed_never_logs_in(
        which in 0..4_usize,
        place in any::<prop::sample::Index>(),
        change in 1_u8..=255,
    ) {
        let secret = Secret::of(b"pencil", b"salt and pepper!", 2);
        let credentials = Credentials::Password { password: b"pencil".to_vec(), cached: None };
        let mut client = Client::new(credentials, ClientBinding::None, [1; NONCE_BYTES]);
        let mut server = Server::new(secret, ServerBinding::None, [2; NONCE_BYTES]);
        let tamper = |number: usize, message: String| {
            let mut message = message.into_bytes();
            if number == which {
                let place = place.index(message.len());
                message[place] ^= change;
            }
            message
        };
        let outcome = (|| {
            let first = tamper(0, client.first()?);
            let first = tamper(1, server.on_client_first(SCRAM_SHA_256.as_bytes(), &first)?);
            let last = tamper(2, client.on_server_first(&first)?);
            let accepted = server.on_client_final(&last)?;
            client.on_server_final(&tamper(3, accepted.server_final))
        })();
        prop_assert!(outcome.is_err());
    }

    #[test]
    fn noise_is_refused_without_panic(noise in bytes(0..200)) {
        let secret = Secret::of(b"pencil", b"salt", 1);
        let mut server = Server::new(secret, ServerBinding::None, [2; NONCE_BYTES]);
        prop_assert!(server.on_client_first(SCRAM_SHA_256.as_bytes(), &noise).is_err());
        let credentials = Credentials::Password { password: Vec::new(), cached: None };
        let mut client = Client::new(credentials, ClientBinding::None, [1; NONCE_BYTES]);
        client.first().unwrap();
        prop_assert!(client.on_server_first(&noise).is_err());
        drop(server_end_point(&noise));
        drop(Password::parse(&String::from_utf8_lossy(&noise)));
    }

    #[test]
    fn md5_answers_only_the_right_salt(password in bytes(0..40), user in bytes(1..20), salt in any::<[u8; 4]>(), other in any::<[u8; 4]>()) {
        let stored = md5::Stored::of(&password, &user);
        let response = stored.response(salt);
        let stored = Password::parse(&stored.to_string());
        prop_assert!(stored.verify_md5(&user, salt, response.as_bytes()));
        prop_assert!(stored.verify_clear(&user, &password));
        if salt != other {
            prop_assert!(!stored.verify_md5(&user, other, response.as_bytes()));
        }
    }
}
