//! Names of prepared statements, from the client's to the server's, and what that entails.

use std::rc::Rc;

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use pg::wire::frontend::{BindHead, Parse, Target, kind, parse_name, rewrite as renamed};

use super::Run;
use super::pending::{Expect, Note};
use super::request::{Violation, malformed};
use crate::client::Client;
use crate::prepared::Statement;
use crate::server::Server;

/// A Parse, Bind, Describe or Close; of a Bind the body may be only the beginning.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u8,
    pub(super) body_bytes: u32,
    pub(super) body: &'a [u8],
}

/// What is left to do with a message.
pub(super) enum Verdict {
    /// Send it as it is.
    AsIs,
    /// Its beginning is sent; the body goes on from this byte.
    From(usize),
    Done,
}

/// A name that no server knows: what a Bind or Describe of an unnamed statement that the client
/// does not have must refer to, lest it find another client's.
const NO_STATEMENT: &[u8] = b"howdah_none";

/// What a client's name stands for on the server.
enum Name {
    /// The same name: the unnamed statement, or one made by SQL.
    Same,
    Statement(Rc<Statement>),
    Nothing,
}

/// Takes a message about a statement, after making sure that the server has it.
pub(super) fn rewrite(
    client: &Client,
    server: &Server,
    run: &mut Run<'_>,
    message: Message<'_>,
) -> Result<Verdict, Violation> {
    let mut rewriter = Rewriter { client, server, run };
    match message.kind {
        kind::PARSE => rewriter.parse(message.body),
        kind::BIND => rewriter.bind(message),
        kind::DESCRIBE => rewriter.describe(message.body),
        _ => rewriter.close(message.body),
    }
}

struct Rewriter<'a, 'b> {
    client: &'a Client,
    server: &'a Server,
    run: &'a mut Run<'b>,
}

impl Rewriter<'_, '_> {
    fn parse(&mut self, body: &[u8]) -> Result<Verdict, Violation> {
        let name = parse_name(body).map_err(malformed)?;
        let statement =
            self.client.route.per_core.statements.intern(Parse::identity(body).map_err(malformed)?);
        let held = self.client.statement(name);
        if let Some(held) = held.filter(|_| !name.is_empty()) {
            // The server says it best, and aborts what has to be aborted.
            self.ensure(&held)?;
            self.send(|out| renamed::parse(out, body, &held.name).map_err(malformed))?;
            self.expect(Expect::PlainParse)?;
            return Ok(Verdict::Done);
        }
        self.client.name_statement(name, &statement)?;
        let note = Note { statement: Rc::clone(&statement), name: Some(name.into()) };
        if name.is_empty() {
            self.server.statements.borrow_mut().unnamed = statement.id;
            self.expect_noted(Expect::Parse, note)?;
            return Ok(Verdict::AsIs);
        }
        self.client.route.stats.count(|counters| counters.client_parse_count += 1);
        if self.server.statements.borrow_mut().touch(&statement) {
            self.expect_noted(Expect::FakeParse, note)?;
            return Ok(Verdict::Done);
        }
        self.make_room(&statement)?;
        self.send(|out| renamed::parse(out, body, &statement.name).map_err(malformed))?;
        self.expect_noted(Expect::Parse, note)?;
        Ok(Verdict::Done)
    }

    fn bind(&mut self, message: Message<'_>) -> Result<Verdict, Violation> {
        let head = BindHead::read(message.body).map_err(malformed)?;
        self.client.route.stats.count(|counters| counters.bind_count += 1);
        let known = self.resolve(head.statement)?;
        let name = match &known {
            Name::Same => {
                self.expect(Expect::Bind)?;
                return Ok(Verdict::AsIs);
            }
            Name::Statement(statement) => &statement.name,
            Name::Nothing => NO_STATEMENT,
        };
        self.send(|out| {
            renamed::bind_head(out, head, message.body_bytes, name);
            Ok(())
        })?;
        self.expect(Expect::Bind)?;
        Ok(Verdict::From(head.bytes))
    }

    fn describe(&mut self, body: &[u8]) -> Result<Verdict, Violation> {
        let Target::Statement(name) = Target::read_describe(body).map_err(malformed)? else {
            self.expect(Expect::DescribePortal)?;
            return Ok(Verdict::AsIs);
        };
        let known = self.resolve(name)?;
        let name = match &known {
            Name::Same => {
                self.expect(Expect::DescribeStatement)?;
                return Ok(Verdict::AsIs);
            }
            Name::Statement(statement) => &statement.name,
            Name::Nothing => NO_STATEMENT,
        };
        self.send(|out| {
            renamed::describe_statement(out, name);
            Ok(())
        })?;
        self.expect(Expect::DescribeStatement)?;
        Ok(Verdict::Done)
    }

    fn close(&mut self, body: &[u8]) -> Result<Verdict, Violation> {
        let target = Target::read_close(body).map_err(malformed)?;
        if let Target::Statement(name) = target {
            let held = match &mut *self.client.statements.borrow_mut() {
                Some(statements) => statements.remove(name),
                None => None,
            };
            if name.is_empty() {
                self.server.statements.borrow_mut().unnamed = 0;
            } else if let Some(statement) = held {
                // The server keeps it, for others.
                let note = Note { statement, name: Some(name.into()) };
                self.expect_noted(Expect::FakeClose, note)?;
                return Ok(Verdict::Done);
            }
        }
        self.expect(Expect::Close)?;
        Ok(Verdict::AsIs)
    }

    /// Makes sure that the server has what `name` means to the client.
    fn resolve(&mut self, name: &[u8]) -> Result<Name, Violation> {
        let Some(statement) = self.client.statement(name) else {
            return Ok(if name.is_empty() { Name::Nothing } else { Name::Same });
        };
        if !name.is_empty() {
            self.ensure(&statement)?;
            return Ok(Name::Statement(statement));
        }
        if self.server.statements.borrow().unnamed != statement.id {
            self.hidden_parse(&statement, b"")?;
            self.server.statements.borrow_mut().unnamed = statement.id;
        }
        Ok(Name::Same)
    }

    /// Prepares a named statement on the server if it is not there.
    fn ensure(&mut self, statement: &Rc<Statement>) -> Result<(), Violation> {
        if self.server.statements.borrow_mut().touch(statement) {
            return Ok(());
        }
        self.make_room(statement)?;
        self.hidden_parse(statement, &statement.name)
    }

    /// Notes that the server is to get this statement, and closes one if it has too many.
    fn make_room(&mut self, statement: &Rc<Statement>) -> Result<(), Violation> {
        self.client.route.stats.count(|counters| counters.server_parse_count += 1);
        let limit = self.client.route.config().max_prepared;
        let evicted = self.server.statements.borrow_mut().insert(Rc::clone(statement), limit);
        let Some(evicted) = evicted else { return Ok(()) };
        self.send(|out| {
            renamed::close_statement(out, &evicted.name);
            Ok(())
        })?;
        self.expect_noted(Expect::HiddenClose, Note { statement: evicted, name: None })
    }

    fn hidden_parse(&mut self, statement: &Rc<Statement>, name: &[u8]) -> Result<(), Violation> {
        self.send(|out| {
            pg::wire::write::message(out, kind::PARSE, |out| {
                pg::wire::write::string(out, name);
                out.extend_from_slice(&statement.body);
            });
            Ok(())
        })?;
        let note = Note { statement: Rc::clone(statement), name: Some(name.into()) };
        self.expect_noted(Expect::HiddenParse, note)
    }

    fn send(
        &mut self,
        build: impl FnOnce(&mut Vec<u8>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        self.run.flush(&self.server.stream);
        let out = &mut *self.client.route.per_core.scratch.borrow_mut();
        out.clear();
        build(out)?;
        self.server.stream.queue(out);
        Ok(())
    }

    fn expect(&self, expect: Expect) -> Result<(), Violation> {
        Ok(self.server.pending.borrow_mut().push(expect)?)
    }

    fn expect_noted(&self, expect: Expect, note: Note) -> Result<(), Violation> {
        self.server.pending.borrow_mut().push_noted(expect, note)?;
        // If the server skips it, undo it at once: there will be no reply to do it at.
        let failed = self.server.pending.borrow_mut().take_failed();
        undo(self.server, Some(self.client), failed);
        Ok(())
    }
}

/// Forgets statements whose Parse, and remembers those whose Close, was skipped after an error.
pub(super) fn undo(server: &Server, client: Option<&Client>, failed: Vec<(Expect, Note)>) {
    for (expect, note) in failed {
        let mut known = server.statements.borrow_mut();
        let unnamed = note.name.as_ref().is_some_and(|name| name.is_empty());
        match expect {
            Expect::Parse | Expect::HiddenParse if unnamed => known.unnamed = 0,
            Expect::Parse | Expect::HiddenParse => known.remove(&note.statement),
            // One too many for a while is better than one that is there unknown.
            Expect::HiddenClose => drop(known.insert(Rc::clone(&note.statement), usize::MAX)),
            _ => {}
        }
        let (Some(client), Some(name)) = (client, &note.name) else { continue };
        let mut statements = client.statements.borrow_mut();
        match (expect, &mut *statements) {
            (Expect::Parse | Expect::FakeParse, Some(statements)) => {
                statements.forget(name, &note.statement);
            }
            (Expect::FakeClose, Some(statements)) if statements.get(name).is_none() => {
                // It had room for it before.
                let _there_is_room = statements.insert(name, note.statement);
            }
            _ => {}
        }
    }
}

/// The client has more statements than we keep.
pub(crate) fn too_many_statements() -> Report {
    Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many prepared statements")
}
