//! Prepared statements that outlive the server connection they were made on.
//!
//! A client's name stands for a [`Statement`], which is shared by everyone who prepared the same text
//! with the same parameter types. A server connection knows statements by a name of ours, made from
//! their number; what it does not know yet is prepared there, unseen by the client, just before use.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use runtime::collections::HashMap;

use crate::limits::CLIENT_STATEMENTS_MAX;

/// The text and parameter types of a prepared statement, once per core.
pub(crate) struct Statement {
    /// Unique in the process: the core's index is in the upper bits. Never 0.
    pub(crate) id: u64,
    /// How server connections know it.
    pub(crate) name: Box<[u8]>,
    /// What follows the name in a Parse message: query, zero byte, count and OIDs of parameter types.
    pub(crate) body: Box<[u8]>,
    /// A server has accepted it.
    pub(crate) accepted: Cell<bool>,
    hash: u64,
    owner: Weak<Statements>,
}

impl Drop for Statement {
    fn drop(&mut self) {
        let Some(owner) = self.owner.upgrade() else { return };
        let mut known = owner.known.borrow_mut();
        // The entry may belong to a newer statement with the same text.
        if known.get(&self.hash).is_some_and(|(id, _)| *id == self.id) {
            known.remove(&self.hash);
        }
    }
}

/// All statements of a core that somebody holds.
pub(crate) struct Statements {
    known: RefCell<HashMap<u64, (u64, Weak<Statement>)>>,
    next: Cell<u64>,
}

impl Statements {
    pub(crate) fn new(core: usize) -> Rc<Statements> {
        let first = (u64::try_from(core).unwrap_or(u64::MAX) << 40) | 1;
        Rc::new(Statements { known: RefCell::default(), next: Cell::new(first) })
    }

    /// How many different statements are held.
    pub(crate) fn len(&self) -> usize {
        self.known.borrow().len()
    }

    /// The statement with this body; the one already known if there is one.
    pub(crate) fn intern(self: &Rc<Statements>, body: &[u8]) -> Rc<Statement> {
        let hash = hash(body);
        if let Some((_, known)) = self.known.borrow().get(&hash)
            && let Some(statement) = known.upgrade()
            && *statement.body == *body
        {
            return statement;
        }
        let id = self.next.replace(self.next.get() + 1);
        let name = format!("howdah_{id:x}").into_bytes().into();
        let (accepted, owner) = (Cell::new(false), Rc::downgrade(self));
        let statement = Rc::new(Statement { id, name, body: body.into(), accepted, hash, owner });
        // Of two texts with one hash the newer is found again: the older still works, unshared.
        self.known.borrow_mut().insert(hash, (id, Rc::downgrade(&statement)));
        statement
    }
}

/// A multiplicative hash over words of eight bytes. Equality is always checked on the bytes, so a
/// forged collision costs its author the sharing and nobody anything else.
fn hash(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = (bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = (state.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    for byte in rest {
        state = (state.rotate_left(23) ^ u64::from(*byte)).wrapping_mul(FACTOR);
    }
    state ^ (state >> 32)
}

/// What one client has prepared. Most clients have none, so this is boxed and made when needed.
#[derive(Default)]
pub(crate) struct ClientStatements {
    named: BTreeMap<Box<[u8]>, Rc<Statement>>,
    pub(crate) unnamed: Option<Rc<Statement>>,
}

impl ClientStatements {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// Names a statement; false if the client has too many.
    #[must_use]
    pub(crate) fn insert(&mut self, name: &[u8], statement: Rc<Statement>) -> bool {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else if self.named.len() >= CLIENT_STATEMENTS_MAX && !self.named.contains_key(name) {
            return false;
        } else {
            self.named.insert(name.into(), statement);
        }
        true
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }

    pub(crate) fn len(&self) -> usize {
        self.named.len()
    }

    /// Forgets `name` if it still stands for `statement`, whose preparation failed.
    pub(crate) fn forget(&mut self, name: &[u8], statement: &Rc<Statement>) {
        if self.get(name).is_some_and(|held| Rc::ptr_eq(held, statement)) {
            self.remove(name);
        }
    }
}

/// What one server connection has prepared, least recently used first out.
#[derive(Default)]
pub(crate) struct ServerStatements {
    known: BTreeMap<u64, Known>,
    uses: u64,
    /// Number of the statement that is the unnamed one now; 0 when unknown or none.
    pub(crate) unnamed: u64,
}

struct Known {
    statement: Rc<Statement>,
    used: u64,
}

impl ServerStatements {
    /// Whether the server has `statement`; marks it as used.
    pub(crate) fn touch(&mut self, statement: &Statement) -> bool {
        let Some(known) = self.known.get_mut(&statement.id) else { return false };
        self.uses += 1;
        known.used = self.uses;
        true
    }

    /// Adds a statement; returns the one that has to be closed for it, if `limit` is reached.
    pub(crate) fn insert(
        &mut self,
        statement: Rc<Statement>,
        limit: usize,
    ) -> Option<Rc<Statement>> {
        let evicted = if self.known.len() >= limit.max(1) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(id, _)| *id);
            oldest.and_then(|id| self.known.remove(&id)).map(|known| known.statement)
        } else {
            None
        };
        self.uses += 1;
        self.known.insert(statement.id, Known { statement, used: self.uses });
        evicted
    }

    pub(crate) fn remove(&mut self, statement: &Statement) {
        self.known.remove(&statement.id);
    }

    pub(crate) fn clear(&mut self) {
        *self = ServerStatements::default();
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// Whether a command's tag says that the session has no prepared statement left. Tags, not queries,
/// are looked at, because only they tell what was really done.
pub(crate) fn drops_all_statements(tag: &[u8]) -> bool {
    discards_all(tag) || tag == b"DEALLOCATE ALL\0"
}

/// Whether a command's tag says that nothing is left of what the session was.
pub(crate) fn discards_all(tag: &[u8]) -> bool {
    tag == b"DISCARD ALL\0"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_and_types_are_one_statement() {
        let statements = Statements::new(0);
        let one = statements.intern(b"select 1\0\0\0");
        let other = statements.intern(b"select 1\0\0\0");
        let different = statements.intern(b"select 1\0\0\x01\0\0\0\x17");
        assert!(Rc::ptr_eq(&one, &other));
        assert_ne!(one.id, different.id);
        assert_eq!(statements.len(), 2);
    }

    #[test]
    fn a_statement_that_nobody_holds_is_forgotten() {
        let statements = Statements::new(3);
        let one = statements.intern(b"select 1\0\0\0");
        let id = one.id;
        drop(one);
        assert_eq!(statements.len(), 0);
        assert_ne!(statements.intern(b"select 1\0\0\0").id, id, "a name is never used twice");
    }

    #[test]
    fn cores_never_use_the_same_name() {
        let name = |core| Statements::new(core).intern(b"a").name.clone();
        assert_ne!(name(0), name(1));
    }

    #[test]
    fn a_server_closes_the_least_recently_used() {
        let statements = Statements::new(0);
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| statements.intern(text));
        let mut server = ServerStatements::default();
        assert!(server.insert(Rc::clone(&a), 2).is_none());
        assert!(server.insert(Rc::clone(&b), 2).is_none());
        assert!(server.touch(&a));
        let evicted = server.insert(Rc::clone(&c), 2).expect("the limit is 2");
        assert_eq!(evicted.id, b.id);
        assert!(!server.touch(&b) && server.touch(&a) && server.touch(&c));
    }

    #[test]
    fn a_failed_preparation_does_not_forget_its_successor() {
        let statements = Statements::new(0);
        let (a, b) = (statements.intern(b"a"), statements.intern(b"b"));
        let mut client = ClientStatements::default();
        assert!(client.insert(b"s", Rc::clone(&a)) && client.insert(b"s", Rc::clone(&b)));
        client.forget(b"s", &a);
        assert!(client.get(b"s").is_some());
        client.forget(b"s", &b);
        assert!(client.get(b"s").is_none());
    }
}
