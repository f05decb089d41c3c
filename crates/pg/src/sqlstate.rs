//! SQLSTATE codes: the five characters that tell an error's kind to a program.

use std::fmt;

/// A five-character SQLSTATE. The named ones are those that Howdah itself raises or recognises;
/// names and codes are those of PostgreSQL's `errcodes.txt`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SqlState([u8; 5]);

macro_rules! states {
    ($($name:ident = $code:literal,)*) => {
        $(pub const $name: SqlState = SqlState(*$code);)*
        /// Every named state, for tests and look-ups.
        pub const NAMED: &'static [(SqlState, &'static str)] =
            &[$((SqlState(*$code), stringify!($name)),)*];
    };
}

impl SqlState {
    states! {
        SUCCESSFUL_COMPLETION = b"00000",
        WARNING = b"01000",
        CONNECTION_EXCEPTION = b"08000",
        SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION = b"08001",
        CONNECTION_DOES_NOT_EXIST = b"08003",
        SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION = b"08004",
        CONNECTION_FAILURE = b"08006",
        PROTOCOL_VIOLATION = b"08P01",
        FEATURE_NOT_SUPPORTED = b"0A000",
        INVALID_PARAMETER_VALUE = b"22023",
        CHARACTER_NOT_IN_REPERTOIRE = b"22021",
        INVALID_TEXT_REPRESENTATION = b"22P02",
        ACTIVE_SQL_TRANSACTION = b"25001",
        NO_ACTIVE_SQL_TRANSACTION = b"25P01",
        IN_FAILED_SQL_TRANSACTION = b"25P02",
        IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03",
        TRANSACTION_TIMEOUT = b"25P04",
        INVALID_SQL_STATEMENT_NAME = b"26000",
        INVALID_AUTHORIZATION_SPECIFICATION = b"28000",
        INVALID_PASSWORD = b"28P01",
        INVALID_CURSOR_NAME = b"34000",
        INVALID_CATALOG_NAME = b"3D000",
        SERIALIZATION_FAILURE = b"40001",
        DEADLOCK_DETECTED = b"40P01",
        INSUFFICIENT_PRIVILEGE = b"42501",
        SYNTAX_ERROR = b"42601",
        DUPLICATE_OBJECT = b"42710",
        UNDEFINED_OBJECT = b"42704",
        UNDEFINED_TABLE = b"42P01",
        DUPLICATE_PREPARED_STATEMENT = b"42P05",
        INSUFFICIENT_RESOURCES = b"53000",
        DISK_FULL = b"53100",
        OUT_OF_MEMORY = b"53200",
        TOO_MANY_CONNECTIONS = b"53300",
        CONFIGURATION_LIMIT_EXCEEDED = b"53400",
        PROGRAM_LIMIT_EXCEEDED = b"54000",
        OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000",
        OBJECT_IN_USE = b"55006",
        CANT_CHANGE_RUNTIME_PARAM = b"55P02",
        LOCK_NOT_AVAILABLE = b"55P03",
        QUERY_CANCELED = b"57014",
        ADMIN_SHUTDOWN = b"57P01",
        CRASH_SHUTDOWN = b"57P02",
        CANNOT_CONNECT_NOW = b"57P03",
        DATABASE_DROPPED = b"57P04",
        IDLE_SESSION_TIMEOUT = b"57P05",
        SYSTEM_ERROR = b"58000",
        IO_ERROR = b"58030",
        UNDEFINED_FILE = b"58P01",
        CONFIG_FILE_ERROR = b"F0000",
        INTERNAL_ERROR = b"XX000",
        DATA_CORRUPTED = b"XX001",
        INDEX_CORRUPTED = b"XX002",
    }

    /// Any five digits or upper-case letters; `None` for anything else.
    pub fn from_bytes(code: &[u8]) -> Option<SqlState> {
        let code: [u8; 5] = code.try_into().ok()?;
        let plain = code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        plain.then_some(SqlState(code))
    }

    pub fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // Only ASCII can be constructed, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The class: the first two characters (`08` connection, `28` authorization, `57` intervention).
    pub fn class(&self) -> [u8; 2] {
        let [first, second, ..] = self.0;
        [first, second]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_state_reads_back() {
        for (state, name) in SqlState::NAMED {
            assert_eq!(SqlState::from_bytes(state.as_str().as_bytes()), Some(*state), "{name}");
        }
    }

    #[test]
    fn refuses_what_is_not_five_digits_or_capitals() {
        for code in [&b""[..], b"0800", b"080000", b"08p01", b"0800\0", "é123".as_bytes()] {
            assert_eq!(SqlState::from_bytes(code), None, "{code:?}");
        }
    }

    #[test]
    fn the_class_is_the_first_two_characters() {
        assert_eq!(&SqlState::INVALID_PASSWORD.class(), b"28");
    }
}
