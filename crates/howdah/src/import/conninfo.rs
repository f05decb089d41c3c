//! Connection strings as libpq reads them (PostgreSQL's documentation, 34.1.1): URIs, and `key = value` pairs; of the keys
//! those that matter for following a server. What the string leaves out, the environment says, then libpq's defaults.

use std::path::PathBuf;

use pageserver::settings::Password;
use runtime::tls::SslMode;

use crate::api::credentials::Credentials;
use crate::error::{Error, Result};

/// Where libpq looks for a server's unix socket if no host is named; Debian's place, as our packages come from there.
const SOCKET_FOLDER: &str = "/var/run/postgresql";
/// PostgreSQL's port.
const PORT: u16 = 5432;

/// Whom to connect to, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conninfo {
    /// A name, an address, or the folder of a unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Password,
    /// Where SQL can be run.
    pub database: String,
    pub ssl_mode: SslMode,
    pub ssl_root_certificate: Option<PathBuf>,
}

impl Conninfo {
    /// Reads a connection string; `account` is the name of the system's user.
    ///
    /// # Errors
    /// It is none, or it has a key that cannot be honoured.
    pub fn read(text: &str, credentials: &Credentials, account: &str) -> Result<Self> {
        let pairs = match text.strip_prefix("postgres://").or(text.strip_prefix("postgresql://")) {
            Some(rest) => of_uri(rest)?,
            None => of_pairs(text)?,
        };
        let mut read = Self {
            host: SOCKET_FOLDER.to_owned(),
            port: PORT,
            user: credentials.user.clone().unwrap_or_else(|| account.to_owned()),
            password: Password::default(),
            database: String::new(),
            ssl_mode: mode(credentials.ssl_mode.as_deref().unwrap_or("prefer"))?,
            ssl_root_certificate: credentials.ssl_root_certificate.clone(),
        };
        let mut credentials = credentials.clone();
        for (key, value) in pairs {
            read.set(&key, value, &mut credentials)?;
        }
        if read.database.is_empty() {
            read.database.clone_from(&read.user);
        }
        if read.password.0.is_empty() {
            let shown =
                if read.is_local() { format!("localhost:{}", read.port) } else { read.server() };
            read.password = credentials.password_for(&shown, &read.user);
        }
        Ok(read)
    }

    /// As `pageserver.server` has it: `host:port`, or the path of a unix socket.
    #[must_use]
    pub fn server(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if self.is_local() {
            format!("{}/.s.PGSQL.{port}", host.trim_end_matches('/'))
        } else if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }

    fn set(&mut self, key: &str, value: String, credentials: &mut Credentials) -> Result<()> {
        match key {
            // An address is for those who would spare the look-up, or have no name to look up.
            "host" | "hostaddr" if value.contains(',') => {
                return Err(Error::new("more than one host is named").hint("name the primary"));
            }
            "host" | "hostaddr" => self.host = value,
            "port" => {
                let wrong = || Error::new(format!("port \"{value}\" is no port"));
                self.port = value.parse().map_err(|_no_number| wrong())?;
            }
            "user" => self.user = value,
            "password" => self.password = Password(value),
            "passfile" => {
                (credentials.password, credentials.password_file) = (None, Some(value.into()));
            }
            "dbname" => self.database = value,
            "sslmode" => self.ssl_mode = mode(&value)?,
            "sslrootcert" => self.ssl_root_certificate = Some(value.into()),
            // Ours is set, the others change nothing about what can be read.
            "application_name" | "fallback_application_name" | "connect_timeout" => {}
            "target_session_attrs" | "keepalives" | "gssencmode" | "client_encoding" => {}
            other => {
                return Err(Error::new(format!("connection parameter \"{other}\" is not supported"))
                    .hint("supported are host, hostaddr, port, user, password, passfile, dbname, sslmode and sslrootcert"));
            }
        }
        Ok(())
    }
}

fn mode(text: &str) -> Result<SslMode> {
    text.parse().map_err(|error| Error::new(format!("sslmode: {error}")))
}

/// `[user[:password]@][host][:port][/dbname][?key=value[&...]]`, percent-encoded.
fn of_uri(rest: &str) -> Result<Vec<(String, String)>> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    // An address of IPv6 stands in brackets.
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (place, ""),
    };
    let mut pairs = Vec::new();
    for (key, value) in [
        ("user", user),
        ("password", password),
        ("host", host),
        ("port", port),
        ("dbname", database),
    ] {
        if !value.is_empty() {
            let value = if key == "host" { value.trim_matches(['[', ']']) } else { value };
            pairs.push((key.to_owned(), decoded(value)?));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Error::new(format!("\"{pair}\" in the connection string has no value")));
        };
        pairs.push((decoded(key)?, decoded(value)?));
    }
    Ok(pairs)
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String> {
    // What is wrong may be a password, so it is not shown.
    let wrong = || {
        Error::new(
            "a percent sign in the connection string is not followed by two hexadecimal digits, or what they say is no UTF-8",
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let code = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(code.ok_or_else(wrong)?);
    }
    String::from_utf8(bytes).map_err(|_not_utf8| wrong())
}

/// `key = value` pairs; a value may stand between apostrophes, a backslash takes the next character as it is.
fn of_pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(character) = rest.next_if(|&c| c != '=') {
            key.push(character);
        }
        if rest.next().is_none() {
            return Err(Error::new("the connection string is neither a URI nor key=value pairs")
                .hint("for example: postgres://replicator@db.example.com:5432/postgres"));
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                Some('\\') => value.extend(rest.next()),
                Some('\'') if quoted => break,
                Some(character) if !quoted && character.is_whitespace() => break,
                Some(character) => value.push(character),
                None if quoted => {
                    return Err(Error::new("an apostrophe in the connection string is not closed"));
                }
                None => break,
            }
        }
        pairs.push((key.trim().to_owned(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Conninfo> {
        Conninfo::read(text, &Credentials::default(), "ann")
    }

    #[test]
    fn both_forms_say_the_same() {
        let uri = "postgresql://rep%40x:a%3Ab@db.example:6000/shop?sslmode=verify-full&sslrootcert=/ca.pem";
        let pairs = "host=db.example port = 6000 user='rep@x' password='a:b' dbname=shop sslmode=verify-full \
                     sslrootcert=/ca.pem";
        let (uri, pairs) = (read(uri).expect("a URI"), read(pairs).expect("pairs"));
        assert_eq!(uri, pairs);
        assert_eq!((uri.server().as_str(), uri.user.as_str()), ("db.example:6000", "rep@x"));
        assert_eq!((uri.password.0.as_str(), uri.ssl_mode), ("a:b", SslMode::VerifyFull));
    }

    #[test]
    fn what_is_left_out_has_libpqs_defaults() {
        for (text, server, user, database) in [
            ("", "/var/run/postgresql/.s.PGSQL.5432", "ann", "ann"),
            ("postgres://", "/var/run/postgresql/.s.PGSQL.5432", "ann", "ann"),
            ("postgres://bob@[::1]/x", "[::1]:5432", "bob", "x"),
            ("postgres://%2Ftmp%2Frun:5433", "/tmp/run/.s.PGSQL.5433", "ann", "ann"),
            ("postgres:///?host=/tmp/run&user=eve", "/tmp/run/.s.PGSQL.5432", "eve", "eve"),
            (r"user=a\'b host=10.0.0.1", "10.0.0.1:5432", "a'b", "a'b"),
        ] {
            let read = read(text).expect(text);
            assert_eq!(
                (read.server().as_str(), read.user.as_str(), read.database.as_str()),
                (server, user, database),
                "{text}"
            );
        }
    }

    #[test]
    fn the_environment_says_what_the_string_does_not() {
        let credentials = Credentials {
            user: Some("env".to_owned()),
            password: Some(Password("secret".to_owned())),
            ssl_mode: Some("require".to_owned()),
            ..Credentials::default()
        };
        let from = |text| Conninfo::read(text, &credentials, "ann").expect("it is one");
        let found = from("postgres://h");
        assert_eq!((found.user.as_str(), found.password.0.as_str()), ("env", "secret"));
        assert_eq!(found.ssl_mode, SslMode::Require);
        let found = from("postgres://bob:own@h?sslmode=disable");
        assert_eq!((found.user.as_str(), found.password.0.as_str()), ("bob", "own"));
        assert_eq!(found.ssl_mode, SslMode::Disable);
    }

    #[test]
    fn what_cannot_be_honoured_is_named_and_secrets_are_not() {
        for (text, part) in [
            ("postgres://h?sslcert=/x", "sslcert"),
            ("postgres://a,b/", "more than one host"),
            ("postgres://h:99999", "99999"),
            ("postgres://h?x", "\"x\""),
            ("db.example.com", "neither"),
            ("host='x", "apostrophe"),
            ("postgres://u:se%zzcret@h", "percent"),
            ("postgres://h?sslmode=maybe", "maybe"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(part) && !error.contains("cret"), "{text}: {error}");
        }
    }
}
