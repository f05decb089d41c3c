//! Object identifiers: of types on the wire, of databases, tablespaces and relations in the WAL.

use std::fmt;
use std::str::FromStr;

/// A Postgres object identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Oid(pub u32);

impl Oid {
    /// `InvalidOid`; in a Parse message it asks the server to infer the type.
    pub const INVALID: Oid = Oid(0);

    // Types (`pg_type.dat`) that our own result sets and tests name.
    pub const BOOL: Oid = Oid(16);
    pub const BYTEA: Oid = Oid(17);
    pub const NAME: Oid = Oid(19);
    pub const INT8: Oid = Oid(20);
    pub const INT2: Oid = Oid(21);
    pub const INT4: Oid = Oid(23);
    pub const TEXT: Oid = Oid(25);
    pub const OID: Oid = Oid(26);
    pub const FLOAT8: Oid = Oid(701);
    pub const VARCHAR: Oid = Oid(1043);
    pub const TIMESTAMPTZ: Oid = Oid(1184);
    pub const NUMERIC: Oid = Oid(1700);
    pub const PG_LSN: Oid = Oid(3220);

    // Tablespaces (`pg_tablespace.dat`) and databases (`pg_database.dat`).
    pub const DEFAULT_TABLESPACE: Oid = Oid(1663);
    pub const GLOBAL_TABLESPACE: Oid = Oid(1664);
    pub const TEMPLATE1: Oid = Oid(1);

    /// Ids from here on are given by users' own statements (`FirstNormalObjectId`).
    pub const FIRST_NORMAL: Oid = Oid(16384);

    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Oid {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Oid, Self::Err> {
        text.parse().map(Oid)
    }
}
