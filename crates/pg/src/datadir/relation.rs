//! Which relation, which fork: the names that WAL records and file paths share.

use std::fmt;

use crate::oid::Oid;

/// A relation's storage (`RelFileNode`, since 16 `RelFileLocator`): all its forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelNode {
    /// Tablespace; 1663 is `pg_default`, 1664 `pg_global`.
    pub spcnode: Oid,
    /// Database; 0 for shared relations.
    pub dbnode: Oid,
    /// The file's number, which is not the relation's oid once it was rewritten.
    pub relnode: Oid,
}

impl RelNode {
    pub const fn new(spcnode: u32, dbnode: u32, relnode: u32) -> RelNode {
        RelNode { spcnode: Oid(spcnode), dbnode: Oid(dbnode), relnode: Oid(relnode) }
    }

    /// One fork of this relation.
    pub const fn fork(self, fork: Fork) -> RelTag {
        RelTag { spcnode: self.spcnode, dbnode: self.dbnode, relnode: self.relnode, fork }
    }
}

/// `1663/5/1259`, as in `pg_waldump`.
impl fmt::Display for RelNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.spcnode, self.dbnode, self.relnode)
    }
}

/// A fork of a relation; the numbers are those of `ForkNumber`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    Main = 0,
    Fsm = 1,
    Vm = 2,
    Init = 3,
}

impl Fork {
    pub const ALL: [Fork; 4] = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init];

    pub const fn from_number(number: u8) -> Option<Fork> {
        match number {
            0 => Some(Fork::Main),
            1 => Some(Fork::Fsm),
            2 => Some(Fork::Vm),
            3 => Some(Fork::Init),
            _ => None,
        }
    }

    pub const fn number(self) -> u8 {
        match self {
            Fork::Main => 0,
            Fork::Fsm => 1,
            Fork::Vm => 2,
            Fork::Init => 3,
        }
    }

    /// `main`, `fsm`, `vm`, `init`: the names that `pg_relation_size` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Fork::Main => "main",
            Fork::Fsm => "fsm",
            Fork::Vm => "vm",
            Fork::Init => "init",
        }
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fork of one relation: what has blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelTag {
    pub spcnode: Oid,
    pub dbnode: Oid,
    pub relnode: Oid,
    pub fork: Fork,
}

impl RelTag {
    pub const fn node(self) -> RelNode {
        RelNode { spcnode: self.spcnode, dbnode: self.dbnode, relnode: self.relnode }
    }

    /// Another fork of the same relation.
    pub const fn with_fork(self, fork: Fork) -> RelTag {
        RelTag { fork, ..self }
    }
}

/// `1663/5/1259`, other forks than the main one with their name: `1663/5/1259 fork vm`.
impl fmt::Display for RelTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.node(), f)?;
        if self.fork != Fork::Main {
            write!(f, " fork {}", self.fork)?;
        }
        Ok(())
    }
}
