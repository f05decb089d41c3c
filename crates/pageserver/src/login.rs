//! Logging in: as a client to Postgres (trust, password, md5, SCRAM-SHA-256), and as the page service.

use std::borrow::Cow;
use std::sync::OnceLock;

use pg::auth::md5::Stored;
use pg::auth::sasl::{self, ClientBinding};
use pg::auth::scram::client::Credentials;
use pg::auth::scram::{self, NONCE_BYTES, SALT_BYTES, ScramError, Secret, ServerBinding};
use pg::sqlstate::SqlState;
use pg::wire::backend::{self, Authentication, kind};
use pg::wire::error::Report;
use pg::wire::frontend::{self, SaslInitial};
use runtime::random;

use crate::connection::{Connection, Login, malformed, unexpected};
use crate::error::Error;
use crate::messages::Messages;
use crate::settings::{Password, User};

/// Answers the server's demands until it is ready for a query.
pub async fn authenticate(connection: &mut Connection, login: &Login) -> Result<(), Error> {
    let mut scram = None;
    loop {
        let message = connection.receive().await?;
        match message.kind {
            kind::AUTHENTICATION => {
                let demand = Authentication::read(connection.body(&message)).map_err(malformed)?;
                let answer = answer(demand, login, &mut scram)?;
                if !answer.is_empty() {
                    connection.send(&answer).await?;
                }
            }
            kind::READY_FOR_QUERY => return Ok(()),
            kind::BACKEND_KEY_DATA | kind::NEGOTIATE_PROTOCOL_VERSION => {}
            other => return Err(unexpected(other, "log-in")),
        }
    }
}

/// The packet that answers a demand; empty if it wants none.
fn answer(
    demand: Authentication<'_>,
    login: &Login,
    scram: &mut Option<scram::Client>,
) -> Result<Vec<u8>, Error> {
    let mut packet = Vec::new();
    let password = login.password.0.as_bytes();
    match demand {
        Authentication::Ok => {}
        Authentication::CleartextPassword => frontend::write::password(&mut packet, password),
        Authentication::Md5Password { salt } => {
            let stored = Stored::of(password, login.user.as_bytes());
            frontend::write::password(&mut packet, stored.response(salt));
        }
        Authentication::Sasl(mechanisms) => {
            let binding = ClientBinding::choose(mechanisms.names(), None)
                .ok_or_else(|| cannot("none of the SASL mechanisms is known"))?;
            let credentials = Credentials::Password { password: password.to_vec(), cached: None };
            let mut client = scram::Client::new(credentials, binding, nonce());
            let first = client.first().map_err(scram_error)?;
            let mechanism = client.mechanism();
            frontend::write::sasl_initial(&mut packet, mechanism, Some(first.as_bytes()));
            *scram = Some(client);
        }
        Authentication::SaslContinue(data) => {
            let client = scram.as_mut().ok_or_else(|| cannot("SASL goes on before it began"))?;
            let response = client.on_server_first(data).map_err(scram_error)?;
            frontend::write::sasl_response(&mut packet, response.as_bytes());
        }
        Authentication::SaslFinal(data) => {
            let client = scram.as_mut().ok_or_else(|| cannot("SASL ends before it began"))?;
            client.on_server_final(data).map_err(scram_error)?;
        }
        Authentication::KerberosV5
        | Authentication::Gss
        | Authentication::GssContinue(_)
        | Authentication::Sspi => {
            return Err(cannot("the server asks for an authentication that is not supported"));
        }
    }
    Ok(packet)
}

fn cannot(message: &str) -> Error {
    Error::Protocol(message.to_owned())
}

fn scram_error(error: ScramError) -> Error {
    Error::Protocol(error.to_string())
}

fn nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    random::fill(&mut nonce);
    nonce
}

/// The user that this process's own API is.
pub const OWN_USER: &str = "_howdah";

/// The password of [`OWN_USER`]: random, known to this process alone.
pub fn own_password() -> &'static Password {
    static OWN: OnceLock<Password> = OnceLock::new();
    OWN.get_or_init(|| {
        let mut secret = [0; 32];
        random::fill(&mut secret);
        Password(secret.iter().map(|byte| format!("{byte:02x}")).collect())
    })
}

/// A user of the page service, with what is known of the password.
pub struct KnownUser {
    name: String,
    secret: Known,
}

enum Known {
    Scram(Secret),
    Md5(Stored),
}

impl KnownUser {
    /// Reads a setting: a stored secret, or a password to make one of (which costs a millisecond).
    pub fn new(user: &User) -> KnownUser {
        let text = user.secret.0.as_str();
        let secret = match Stored::parse(text) {
            Some(stored) => Known::Md5(stored),
            None => Known::Scram(text.parse().unwrap_or_else(|_not_stored| {
                let mut salt = [0; SALT_BYTES];
                random::fill(&mut salt);
                Secret::of(text.as_bytes(), &salt, scram::ITERATIONS)
            })),
        };
        KnownUser { name: user.name.clone(), secret }
    }

    /// This process.
    pub fn own() -> KnownUser {
        KnownUser::new(&User { name: OWN_USER.to_owned(), secret: own_password().clone() })
    }
}

/// Why a client is not let in; `None` if its connection broke.
pub type Refusal = Option<Report>;

/// Authenticates a client: by SCRAM-SHA-256, or md5 if that is how its password is stored. Without any user in the
/// settings everybody is let in: the service listens on loopback only then.
pub async fn admit(
    messages: &mut Messages,
    user: &[u8],
    users: &[KnownUser],
    installation_nonce: &[u8],
) -> Result<(), Refusal> {
    if users.is_empty() {
        return Ok(());
    }
    let refused = || {
        let name = String::from_utf8_lossy(user).into_owned();
        let message = format!("password authentication failed for user \"{name}\"");
        Some(Report::fatal(SqlState::INVALID_PASSWORD, message))
    };
    let broken = |_error| None;
    let known = users.iter().find(|known| known.name.as_bytes() == user);
    if let Some(KnownUser { secret: Known::Md5(stored), .. }) = known {
        return if admit_by_md5(messages, stored).await? { Ok(()) } else { Err(refused()) };
    }
    let mut server = match known.map(|known| &known.secret) {
        Some(Known::Scram(secret)) => {
            scram::Server::new(secret.clone(), ServerBinding::None, nonce())
        }
        _ => scram::Server::mock(user, installation_nonce, ServerBinding::None, nonce()),
    };
    let mut packet = Vec::new();
    backend::write::sasl(&mut packet, sasl::offer(false));
    messages.send(&packet).await.map_err(broken)?;
    let body = password_message(messages).await?;
    let initial = SaslInitial::read(&body).map_err(|error| violation(error.to_string()))?;
    let first = initial.data.unwrap_or_default();
    let first = server.on_client_first(initial.mechanism, first).map_err(scram_violation)?;
    packet.clear();
    let challenge = Authentication::SaslContinue(first.as_bytes());
    backend::write::authentication(&mut packet, challenge);
    messages.send(&packet).await.map_err(broken)?;
    let body = password_message(messages).await?;
    let accepted = match server.on_client_final(frontend::sasl_response(&body)) {
        Ok(accepted) => accepted,
        Err(ScramError::WrongPassword) => return Err(refused()),
        Err(error) => return Err(scram_violation(error)),
    };
    packet.clear();
    let last = Authentication::SaslFinal(accepted.server_final.as_bytes());
    backend::write::authentication(&mut packet, last);
    messages.queue(&packet);
    Ok(())
}

/// Whether the client knows the password that the stored hash is of.
async fn admit_by_md5(messages: &mut Messages, stored: &Stored) -> Result<bool, Refusal> {
    let mut salt = [0; 4];
    random::fill(&mut salt);
    let mut packet = Vec::new();
    backend::write::authentication(&mut packet, Authentication::Md5Password { salt });
    messages.send(&packet).await.map_err(|_broken| None)?;
    let body = password_message(messages).await?;
    let response = body.strip_suffix(&[0]).unwrap_or(&body);
    Ok(stored.verify(salt, response))
}

async fn password_message(messages: &mut Messages) -> Result<Vec<u8>, Refusal> {
    let message = messages.receive().await.map_err(|_broken| None)?;
    if message.kind != frontend::kind::PASSWORD {
        return Err(violation(format!(
            "expected password response, got message type {}",
            message.kind
        )));
    }
    Ok(messages.body(&message).to_vec())
}

fn violation(message: impl Into<Cow<'static, str>>) -> Refusal {
    Some(Report::fatal(SqlState::PROTOCOL_VIOLATION, message))
}

fn scram_violation(error: ScramError) -> Refusal {
    let report = Report::fatal(error.sqlstate(), error.to_string());
    Some(match error.detail() {
        Some(detail) => report.with_detail(detail),
        None => report,
    })
}
