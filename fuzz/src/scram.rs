//! SCRAM and stored passwords: noise never panics and never logs in.

use pg::auth::Password;
use pg::auth::sasl::{ClientBinding, SCRAM_SHA_256, server_end_point};
use pg::auth::scram::client::Credentials;
use pg::auth::scram::{Client, Secret, Server, ServerBinding};

/// Takes one input.
pub fn run(data: &[u8]) {
    let _ = server_end_point(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Password::parse(text);
    }

    let mut server = Server::new(Secret::of(b"pencil", b"salt", 1), ServerBinding::None, [2; 18]);
    let _ = server.on_client_first(SCRAM_SHA_256.as_bytes(), data);
    assert!(server.on_client_final(data).is_err());
    let mut server = Server::new(Secret::of(b"pencil", b"salt", 1), ServerBinding::None, [2; 18]);
    server.on_client_first(SCRAM_SHA_256.as_bytes(), b"n,,n=,r=abc").expect("a good message");
    assert!(server.on_client_final(data).is_err());

    let client = || {
        let credentials = Credentials::Password { password: b"pencil".to_vec(), cached: None };
        let mut client = Client::new(credentials, ClientBinding::None, [1; 18]);
        client.first().expect("the first call");
        client
    };
    // A demand for many rounds is legal but would only cost time here.
    if !data.windows(3).any(|digits| digits.iter().all(u8::is_ascii_digit)) {
        let _ = client().on_server_first(data);
    }
    let mut client = client();
    let first = b"r=AQEBAQEBAQEBAQEBAQEBAQEBAQEBx,s=AAAA,i=1";
    let _ = client.on_server_first(first);
    assert!(client.on_server_final(data).is_err());
}
