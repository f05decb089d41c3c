//! What a server still owes: one entry for each request it has been sent and not yet answered.
//!
//! Every reply is held against the oldest entry. One that does not fit means that we and the server
//! no longer agree on whose turn it is, and then nothing more may be delivered to anyone.
//! The order of entries is the order of requests, ours ("hidden") among the client's; answers that we
//! give ourselves ("fake") wait in the same queue for those that the server gives before them.

use std::collections::VecDeque;
use std::rc::Rc;

use pg::wire::backend::kind;

use crate::prepared::Statement;

/// A request and what answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A simple query: anything up to ReadyForQuery.
    Query,
    /// A simple query of ours.
    HiddenQuery,
    FunctionCall,
    /// ReadyForQuery.
    Sync,
    Parse,
    /// A Parse of a client whose statements are not tracked.
    PlainParse,
    HiddenParse,
    /// A Parse that we answer: the server has the statement.
    FakeParse,
    Bind,
    DescribeStatement,
    DescribePortal,
    /// Rows, then CommandComplete, PortalSuspended or EmptyQueryResponse; or COPY.
    Execute,
    Close,
    HiddenClose,
    FakeClose,
    /// No answer: where a client ended a COPY, so that what it sent before can be told from after.
    CopyEnd,
}

impl Expect {
    const fn has_note(self) -> bool {
        use Expect::{FakeClose, FakeParse, HiddenClose, HiddenParse, Parse};
        matches!(self, Parse | HiddenParse | FakeParse | HiddenClose | FakeClose)
    }

    const fn ends_with_ready(self) -> bool {
        matches!(self, Expect::Query | Expect::HiddenQuery | Expect::FunctionCall | Expect::Sync)
    }
}

/// The statement that a Parse or Close is about, and the client's name for it.
#[derive(Clone)]
pub(crate) struct Note {
    pub(crate) statement: Rc<Statement>,
    pub(crate) name: Option<Box<[u8]>>,
}

/// What to do with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Forward,
    Swallow,
}

/// A reply that answers nothing the server was asked, or a request that cannot follow those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Desync;

#[derive(Default)]
pub(crate) struct Pending {
    queue: VecDeque<Expect>,
    /// One for each entry that has one, in the same order.
    notes: VecDeque<Note>,
    /// Requests that the server skips because of an earlier error.
    failed: Vec<(Expect, Note)>,
    /// An error was answered and the Sync that ends the skipping has not been sent yet.
    skipping: bool,
    /// The server reads COPY data.
    copy_in: bool,
    /// Requests of the extended protocol were sent, and no Sync behind them: what they did is in a
    /// transaction that the server has not told of, or is to be skipped.
    unsynced: bool,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the client must send a Sync before the server can be anybody else's.
    pub(crate) fn needs_sync(&self) -> bool {
        self.unsynced || self.skipping
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The request that the next reply answers.
    pub(crate) fn head(&self) -> Option<Expect> {
        self.queue.front().copied()
    }

    /// Whether requests about statements are not answered yet.
    pub(crate) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Whether the next reply is to a request of ours.
    pub(crate) fn head_is_hidden(&self) -> bool {
        use Expect::{HiddenClose, HiddenParse, HiddenQuery};
        matches!(self.queue.front(), Some(HiddenQuery | HiddenParse | HiddenClose))
    }

    /// Adds a request that has been sent, except one that the server will skip or ignore.
    pub(crate) fn push(&mut self, expect: Expect) -> Result<(), Desync> {
        debug_assert!(!expect.has_note(), "requests about statements go through push_noted");
        match expect {
            Expect::CopyEnd if self.queue.is_empty() => return Ok(()),
            Expect::CopyEnd => self.copy_in = false,
            Expect::Sync if self.copy_in => return Ok(()),
            Expect::Sync => {
                self.skipping = false;
                self.unsynced = false;
            }
            _ if self.copy_in => return Err(Desync),
            _ if self.skipping => return Ok(()),
            // A simple query ends the transaction of what came before it, or says that it goes on.
            _ => self.unsynced = !expect.ends_with_ready(),
        }
        self.queue.push_back(expect);
        Ok(())
    }

    pub(crate) fn push_noted(&mut self, expect: Expect, note: Note) -> Result<(), Desync> {
        debug_assert!(expect.has_note(), "only requests about statements have a note");
        if self.copy_in {
            return Err(Desync);
        }
        if self.skipping {
            self.failed.push((expect, note));
            return Ok(());
        }
        self.unsynced = true;
        self.queue.push_back(expect);
        self.notes.push_back(note);
        Ok(())
    }

    /// Takes a reply of this kind; asynchronous ones (notices, notifications, parameters) are not
    /// for here. The server's part of protocol 3, read against the oldest request.
    pub(crate) fn reply(&mut self, reply: u8) -> Result<Delivery, Desync> {
        use Expect as X;
        let Some(head) = self.queue.front().copied() else {
            // A server that ends on its own says so before it closes.
            return if reply == kind::ERROR { Ok(Delivery::Forward) } else { Err(Desync) };
        };
        let delivery = match head {
            X::HiddenQuery | X::HiddenParse | X::HiddenClose if reply != kind::ERROR => {
                Delivery::Swallow
            }
            X::HiddenQuery => Delivery::Swallow,
            _ => Delivery::Forward,
        };
        match (reply, head) {
            (kind::ERROR, _) => self.error(head),
            (kind::READY_FOR_QUERY, _) if head.ends_with_ready() => self.pop(),
            (kind::PARSE_COMPLETE, X::Parse | X::PlainParse | X::HiddenParse)
            | (kind::BIND_COMPLETE, X::Bind)
            | (kind::CLOSE_COMPLETE, X::Close | X::HiddenClose)
            | (kind::NO_DATA | kind::ROW_DESCRIPTION, X::DescribeStatement | X::DescribePortal)
            | (kind::COMMAND_COMPLETE | kind::PORTAL_SUSPENDED | kind::EMPTY_QUERY, X::Execute) => {
                self.pop()
            }
            (kind::DATA_ROW, X::Query | X::HiddenQuery | X::Execute)
            | (
                kind::ROW_DESCRIPTION | kind::COMMAND_COMPLETE | kind::EMPTY_QUERY,
                X::Query | X::HiddenQuery,
            )
            | (kind::PARAMETER_DESCRIPTION, X::DescribeStatement)
            | (kind::COPY_OUT | kind::COPY_DATA | kind::COPY_DONE, X::Query | X::Execute)
            | (kind::FUNCTION_CALL_RESPONSE, X::FunctionCall) => {}
            (kind::COPY_IN | kind::COPY_BOTH, X::Query | X::Execute) => {
                self.begin_copy(head)?;
            }
            _ => return Err(Desync),
        }
        if reply == kind::COMMAND_COMPLETE {
            self.copy_in = false;
        }
        Ok(delivery)
    }

    /// The answer that is due from us now, because everything asked before has been answered:
    /// the kind of an empty message.
    pub(crate) fn next_fake(&mut self) -> Option<u8> {
        let reply = match self.queue.front()? {
            Expect::FakeParse => kind::PARSE_COMPLETE,
            Expect::FakeClose => kind::CLOSE_COMPLETE,
            _ => return None,
        };
        self.pop();
        Some(reply)
    }

    /// Requests about statements that were not carried out.
    pub(crate) fn take_failed(&mut self) -> Vec<(Expect, Note)> {
        std::mem::take(&mut self.failed)
    }

    fn pop(&mut self) {
        if let Some(expect) = self.queue.pop_front()
            && expect.has_note()
            && let Some(note) = self.notes.pop_front()
            && matches!(expect, Expect::Parse | Expect::HiddenParse)
        {
            note.statement.accepted.set(true);
        }
        while self.queue.front() == Some(&Expect::CopyEnd) {
            self.queue.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > 1024 {
            self.queue = VecDeque::new();
        }
    }

    /// After an error the server skips everything up to the next Sync, but a simple query ends by
    /// itself.
    fn error(&mut self, head: Expect) {
        self.copy_in = false;
        if head.ends_with_ready() {
            return;
        }
        while let Some(expect) = self.queue.front().copied() {
            if expect == Expect::Sync {
                return;
            }
            self.queue.pop_front();
            if expect.has_note()
                && let Some(note) = self.notes.pop_front()
            {
                self.failed.push((expect, note));
            }
        }
        self.skipping = true;
    }

    /// While it reads COPY data a server ignores Sync. Anything else that was sent without waiting
    /// for the COPY to begin makes it fail at a place that we cannot know, unless a Sync tells.
    fn begin_copy(&mut self, head: Expect) -> Result<(), Desync> {
        while self.queue.get(1) == Some(&Expect::Sync) {
            self.queue.remove(1);
            self.unsynced |= !self.queue.iter().any(|expect| expect.ends_with_ready());
        }
        match self.queue.get(1) {
            None => self.copy_in = true,
            Some(Expect::CopyEnd) => {}
            Some(_) if head == Expect::Execute => {}
            Some(_) => return Err(Desync),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepared::Statements;

    fn pending(entries: &[Expect]) -> Pending {
        let mut pending = Pending::default();
        let statements = Statements::new(0);
        for entry in entries {
            let note = || Note { statement: statements.intern(b"select 1"), name: None };
            let pushed = match entry.has_note() {
                true => pending.push_noted(*entry, note()),
                false => pending.push(*entry),
            };
            assert_eq!(pushed, Ok(()));
        }
        pending
    }

    /// Replies, each with what happens to it: `F`orwarded, `S`wallowed or a desync `!`; a fake
    /// answer is given by its kind.
    fn check(entries: &[Expect], replies: &str, expected: &str) -> Pending {
        let mut pending = pending(entries);
        let mut seen = String::new();
        for reply in replies.bytes() {
            seen.push(match pending.reply(reply) {
                Ok(Delivery::Forward) => 'F',
                Ok(Delivery::Swallow) => 'S',
                Err(Desync) => '!',
            });
            while let Some(fake) = pending.next_fake() {
                seen.push(char::from(fake));
            }
        }
        assert_eq!(seen, expected, "{entries:?} {replies}");
        pending
    }

    #[test]
    fn a_simple_query_lasts_until_ready() {
        let left = check(&[Expect::Query], "TDDCTDCIEZ", "FFFFFFFFFF");
        assert!(left.is_empty());
    }

    #[test]
    fn a_second_ready_is_a_desync() {
        check(&[Expect::Query], "CZZ", "FF!");
        check(&[Expect::Query], "CZC", "FF!");
    }

    #[test]
    fn an_extended_batch_is_matched_message_by_message() {
        use Expect::{Bind, DescribePortal, DescribeStatement, Execute, Sync};
        check(&[Expect::Parse, Bind, DescribePortal, Execute, Sync], "12TDDCZ", "FFFFFFF");
        check(&[Expect::Parse, DescribeStatement, Sync], "1tnZ", "FFFF");
        check(&[Bind, Execute, Execute, Sync], "2DsDCZ", "FFFFFF");
        check(&[Bind, Execute, Sync], "1", "!");
        check(&[Bind, Execute, Sync], "2Z", "F!");
        check(&[Expect::Parse, Sync], "D", "!");
    }

    #[test]
    fn our_own_requests_are_not_answered_to_the_client() {
        use Expect::{Bind, Execute, HiddenParse, HiddenQuery, Query, Sync};
        check(&[HiddenQuery, Query], "TDCZTDCZ", "SSSSFFFF");
        check(&[HiddenParse, Bind, Execute, Sync], "12CZ", "SFFF");
    }

    #[test]
    fn answers_of_ours_wait_for_their_turn() {
        use Expect::{Bind, Execute, FakeClose, FakeParse, Sync};
        check(&[Bind, Execute, FakeParse, FakeClose, Bind, Sync], "2C2Z", "FF13FF");
    }

    #[test]
    fn an_error_skips_to_the_next_sync() {
        use Expect::{Bind, Execute, FakeParse, HiddenParse, Query, Sync};
        let mut left =
            check(&[Expect::Parse, Bind, Execute, FakeParse, Sync, Query], "1EZCZ", "FFFFF");
        assert!(left.is_empty());
        assert_eq!(left.take_failed().len(), 1, "the fake one was skipped");
        // The error of a hidden Parse is the client's to see: its Bind cannot work.
        let mut left = check(&[HiddenParse, Bind, Execute, Sync], "EZ", "FF");
        assert_eq!(left.take_failed().len(), 1);
    }

    #[test]
    fn an_error_before_the_sync_was_sent_skips_what_comes_until_then() {
        let mut left = check(&[Expect::Bind], "E", "F");
        assert_eq!(left.push(Expect::Execute), Ok(()));
        assert_eq!(left.push(Expect::Query), Ok(()));
        assert!(left.is_empty());
        assert_eq!(left.push(Expect::Sync), Ok(()));
        assert_eq!(left.reply(b'Z'), Ok(Delivery::Forward));
        assert_eq!(left.push(Expect::Query), Ok(()));
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn what_no_sync_has_ended_is_not_over() {
        use Expect::{Bind, CopyEnd, Execute, HiddenQuery, Query, Sync};
        assert!(check(&[Expect::Parse, Bind, Execute], "12C", "FFF").needs_sync());
        assert!(check(&[Bind, Sync, Execute], "2ZC", "FFF").needs_sync());
        assert!(check(&[Bind], "E", "F").needs_sync());
        assert!(!check(&[Bind, Sync], "2Z", "FF").needs_sync());
        assert!(!check(&[Bind, Sync], "EZ", "FF").needs_sync());
        assert!(!check(&[HiddenQuery], "CZ", "SS").needs_sync());
        // The transaction of the Bind is the query's, too.
        assert!(!check(&[Bind, Query], "2CZ", "FFF").needs_sync());
        assert!(check(&[Bind, Query], "E", "F").needs_sync());
        // A COPY has swallowed the Sync before its end.
        assert!(check(&[Bind, Execute, Sync, CopyEnd], "2GC", "FFF").needs_sync());
        assert!(!check(&[Bind, Execute, Sync, CopyEnd, Sync], "2GCZ", "FFFF").needs_sync());
        assert!(!check(&[Query, Sync], "GCZ", "FFF").needs_sync());
    }

    #[test]
    fn a_sync_that_a_copy_swallows_is_not_waited_for() {
        use Expect::{Bind, CopyEnd, Execute, Sync};
        let mut left = check(&[Bind, Execute, Sync], "2G", "FF");
        assert!(left.copy_in);
        assert_eq!(
            (left.push(Sync), left.push(CopyEnd), left.push(Sync)),
            (Ok(()), Ok(()), Ok(()))
        );
        assert_eq!(left.reply(b'C'), Ok(Delivery::Forward));
        assert_eq!(left.reply(b'Z'), Ok(Delivery::Forward));
        assert!(left.is_empty());
        check(&[Bind, Execute, CopyEnd, Sync], "2GCZ", "FFFF");
    }

    #[test]
    fn a_query_sent_into_a_copy_is_a_desync() {
        use Expect::{CopyEnd, Query};
        check(&[Query, Query], "G", "!");
        check(&[Query, CopyEnd, Query], "GCZCZ", "FFFFF");
        let mut left = check(&[Query], "G", "F");
        assert_eq!(left.push(Query), Err(Desync));
    }

    #[test]
    fn only_a_last_word_is_accepted_from_an_idle_server() {
        check(&[], "E", "F");
        check(&[], "C", "!");
        check(&[], "Z", "!");
    }
}
