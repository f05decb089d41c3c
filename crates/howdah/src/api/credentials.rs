//! Who a command is to the page service: from the environment variables that libpq's programs know (`PGUSER`,
//! `PGPASSWORD`, `PGPASSFILE`, `PGSSLMODE`, `PGSSLROOTCERT`).

use std::path::PathBuf;

use pageserver::connection::Login;
use pageserver::settings::Password;
use pageserver::tls::Encryption;
use runtime::fs::blocking;
use runtime::tls::SslMode;

use crate::error::{Error, Result};
use crate::output;

/// The name that a command gives itself if nobody gives it one; it matters only where the page service knows users.
const USER: &str = "howdah";

/// What the environment says of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub user: Option<String>,
    pub password: Option<Password>,
    /// Lines of `host:port:database:user:password`.
    pub password_file: Option<PathBuf>,
    pub ssl_mode: Option<String>,
    pub ssl_root_certificate: Option<PathBuf>,
}

impl Credentials {
    /// A log-in at a page service (`host:port`) that is about `database` (branch, `@` and an LSN; empty for the
    /// latest of `main`).
    pub fn login(&self, service: &str, database: &str) -> Result<Login> {
        let user = self.user.clone().unwrap_or_else(|| USER.to_owned());
        let mode = self.ssl_mode.as_deref().unwrap_or("prefer");
        let mode: SslMode =
            mode.parse().map_err(|error| Error::new(format!("PGSSLMODE: {error}")))?;
        let encryption = Encryption::new(mode, self.ssl_root_certificate.as_deref())
            .map_err(|error| Error::new(error.to_string()))?;
        let password = self.password_for(service, &user);
        Ok(Login {
            server: service.to_owned(),
            user,
            password,
            application_name: "howdah".to_owned(),
            database: database.to_owned(),
            encryption,
        })
    }

    /// The password of a user for replication connections to `service` (`host:port`); empty if nothing says one.
    pub fn password_for(&self, service: &str, user: &str) -> Password {
        match &self.password {
            Some(password) => password.clone(),
            None => self.password_of_file(service, user),
        }
    }

    /// The first line of the password file that fits. One that cannot be read holds no password, as for libpq: it may
    /// be that of the user whose environment this is.
    fn password_of_file(&self, service: &str, user: &str) -> Password {
        let Some(path) = &self.password_file else { return Password::default() };
        let text = match blocking::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    let path = path.display();
                    output::note(format!("passing over the password file \"{path}\": {error}"));
                }
                return Password::default();
            }
        };
        let (host, port) = service.rsplit_once(':').unwrap_or((service, ""));
        // A physical replication connection is to the database of this name.
        let wanted = [host.trim_matches(['[', ']']), port, "replication", user];
        Password(text.lines().find_map(|line| fits(line, &wanted)).unwrap_or_default())
    }
}

/// The password of a line of a password file (libpq, 34.16) whose fields are these, or `*`.
fn fits(line: &str, wanted: &[&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let fields = fields(line);
    let [host, port, database, user, password] = fields.as_slice() else { return None };
    let all = [host, port, database, user].into_iter().zip(wanted);
    let fit = all.into_iter().all(|(field, wanted)| field == "*" || field == wanted);
    fit.then(|| password.clone())
}

/// Fields between colons; a backslash takes the next character as it is. The fifth holds all the rest.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let character = match character {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        fields.last_mut().expect("there is one").push(character);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let wanted = ["127.0.0.1", "6430", "replication", "ann"];
        for (line, password) in [
            ("127.0.0.1:6430:replication:ann:right", Some("right")),
            ("*:*:*:*:a\\:b:c\\\\d", Some("a:b:c\\d")),
            ("*:*:*:bob:wrong", None),
            ("*:6431:*:*:wrong", None),
            ("# *:*:*:*:comment", None),
            ("*:*:*", None),
            ("", None),
        ] {
            assert_eq!(fits(line, &wanted).as_deref(), password, "{line}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let credentials = Credentials {
            user: Some("ann".to_owned()),
            password: Some(Password("right".to_owned())),
            password_file: Some("/nonexistent".into()),
            ..Credentials::default()
        };
        let login = credentials.login("127.0.0.1:6430", "main@0/16B3748").expect("all is said");
        assert_eq!((login.user.as_str(), login.password.0.as_str()), ("ann", "right"));
        let nothing =
            Credentials::default().login("127.0.0.1:6430", "").expect("nothing is needed");
        assert_eq!((nothing.user.as_str(), nothing.password.0.as_str()), (USER, ""));
        let wrong = Credentials { ssl_mode: Some("maybe".to_owned()), ..Credentials::default() };
        assert!(wrong.login("127.0.0.1:6430", "").is_err());
    }
}
