//! How often something went wrong, or ended: errors, log-ins that failed, connections that were closed.
//!
//! Counted where it happens, under words of our own, so that nobody outside decides how many there are.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;

use crate::client::End;

/// One thing that is counted. Labels are words of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The pooler sent a client an error of this class of SQLSTATE.
    PoolerError(&'static str),
    /// A server sent a client an error of this class.
    ServerError(&'static str),
    /// A client was not let in.
    Login(&'static str),
    /// A server could not be logged in to; the class of the error.
    ServerLogin(&'static str),
    /// A session ended.
    ClientClosed(&'static str),
    /// A server connection was closed.
    ServerClosed(&'static str),
}

impl Failure {
    /// Name and help of its metric, and its labels.
    #[must_use]
    pub fn metric(self) -> (&'static str, &'static str, Vec<(&'static str, &'static str)>) {
        const ERRORS: (&str, &str) =
            ("pooler_errors", "Errors that clients were sent, by class of SQLSTATE.");
        match self {
            Self::PoolerError(class) => {
                (ERRORS.0, ERRORS.1, vec![("source", "pooler"), ("class", class)])
            }
            Self::ServerError(class) => {
                (ERRORS.0, ERRORS.1, vec![("source", "server"), ("class", class)])
            }
            Self::Login(reason) => (
                "pooler_login_failures",
                "Connections that did not become a client's.",
                vec![("reason", reason)],
            ),
            Self::ServerLogin(class) => (
                "pooler_server_login_failures",
                "Server connections that could not be opened, by class of SQLSTATE.",
                vec![("class", class)],
            ),
            Self::ClientClosed(reason) => {
                ("pooler_client_closes", "Sessions that ended.", vec![("reason", reason)])
            }
            Self::ServerClosed(reason) => (
                "pooler_server_closes",
                "Server connections that the pooler closed.",
                vec![("reason", reason)],
            ),
        }
    }

    pub(crate) fn pooler_error(report: &Report) -> Failure {
        Self::PoolerError(class(report.sqlstate))
    }

    pub(crate) fn server_error(sqlstate: Option<SqlState>) -> Failure {
        Self::ServerError(sqlstate.map_or(OTHER, class))
    }

    pub(crate) fn server_login(report: &Report) -> Failure {
        Self::ServerLogin(class(report.sqlstate))
    }

    /// A client that was told why.
    pub(crate) fn login(report: &Report) -> Failure {
        Self::Login(match report.sqlstate {
            SqlState::INVALID_PASSWORD => "password",
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION | SqlState::INSUFFICIENT_PRIVILEGE => {
                "not_authorized"
            }
            SqlState::INVALID_CATALOG_NAME => "unknown_database",
            SqlState::TOO_MANY_CONNECTIONS => "too_many_clients",
            SqlState::PROTOCOL_VIOLATION => "protocol",
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => "disabled",
            SqlState::CANNOT_CONNECT_NOW => "not_now",
            other if &other.class() == b"08" => "server",
            _ => OTHER,
        })
    }

    pub(crate) fn client_closed(end: &End) -> Failure {
        Self::ClientClosed(match end {
            End::Terminated => "terminated",
            End::Vanished => "vanished",
            End::ServerGone => "server_gone",
            End::Desync => "desync",
            End::Told(report) => told(report),
        })
    }
}

/// Time limits are told by the names of their settings.
const LIMITS: [&str; 6] = [
    "client_idle_timeout",
    "idle_transaction_timeout",
    "query_timeout",
    "query_wait_timeout",
    "suspend_timeout",
    "transaction_timeout",
];

fn told(report: &Report) -> &'static str {
    if let Some(limit) = LIMITS.into_iter().find(|limit| *limit == report.message) {
        return limit;
    }
    match report.sqlstate {
        SqlState::ADMIN_SHUTDOWN => "administrator",
        SqlState::PROTOCOL_VIOLATION => "protocol",
        other if &other.class() == b"08" => "no_server",
        _ => OTHER,
    }
}

const OTHER: &str = "other";

/// The classes of `errcodes.txt` (PostgreSQL, appendix A).
const CLASSES: [&str; 44] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22",
    "23", "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40",
    "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
];

fn class(sqlstate: SqlState) -> &'static str {
    let class = sqlstate.class();
    CLASSES.into_iter().find(|known| known.as_bytes() == class).unwrap_or(OTHER)
}

/// One core's counts.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    counts: RefCell<BTreeMap<Failure, u64>>,
}

impl Failures {
    pub(crate) fn count(&self, failure: Failure) {
        *self.counts.borrow_mut().entry(failure).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> Vec<(Failure, u64)> {
        self.counts.borrow().iter().map(|(failure, count)| (*failure, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_postgres_does_not_have_is_another() {
        assert_eq!(class(SqlState::INVALID_PASSWORD), "28");
        let strange = SqlState::from_bytes(b"ZZ123").expect("it could be one");
        assert_eq!(Failure::server_error(Some(strange)), Failure::ServerError("other"));
        assert_eq!(Failure::server_error(None), Failure::ServerError("other"));
    }

    #[test]
    fn every_state_that_we_name_has_a_class() {
        for (state, name) in SqlState::NAMED {
            assert_ne!(class(*state), OTHER, "{name}");
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let told = |state, message: &'static str| {
            Failure::client_closed(&End::Told(Report::fatal(state, message)))
        };
        for (failure, reason) in [
            (Failure::client_closed(&End::Vanished), "vanished"),
            (told(SqlState::QUERY_CANCELED, "query_timeout"), "query_timeout"),
            (told(SqlState::TOO_MANY_CONNECTIONS, "query_wait_timeout"), "query_wait_timeout"),
            (told(SqlState::ADMIN_SHUTDOWN, "database was killed"), "administrator"),
            (told(SqlState::CONNECTION_FAILURE, "refused"), "no_server"),
            (told(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many"), "other"),
        ] {
            assert_eq!(failure, Failure::ClientClosed(reason));
        }
    }

    #[test]
    fn counts_add_up() {
        let failures = Failures::default();
        for failure in [Failure::Login("password"), Failure::Login("tls"), Failure::Login("tls")] {
            failures.count(failure);
        }
        let expected = [(Failure::Login("password"), 1), (Failure::Login("tls"), 2)];
        assert_eq!(failures.counts(), expected);
    }
}
