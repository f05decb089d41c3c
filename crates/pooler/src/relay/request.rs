//! From a client to its server.

use std::borrow::Cow;
use std::rc::Rc;

use pg::sqlstate::SqlState;
use pg::wire::Malformed;
use pg::wire::error::Report;
use pg::wire::frontend::{BindHead, Parse, Target, kind, parse_name};
use pg::wire::stream::{FRONTEND, Piece};

use super::Run;
use super::pending::{Desync, Expect};
use super::reply::send_due_fakes;
use super::rewrite::{self, Message, Verdict};
use crate::client::{Client, Input, InputRest};
use crate::limits::{
    NAMES_BYTES_MAX, PENDING_REQUESTS_MAX, SERVER_SEND_BYTES_HIGH, STATEMENT_BYTES_MAX,
};
use crate::server::Server;

/// How far the bytes of a client went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// All of them.
    All,
    /// Up to here; what follows needs a server, and the client is in the queue for one.
    Waits(usize),
    /// Up to here; the server must first read what it has been sent, or answer it.
    Full(usize),
    /// The client says good-bye.
    Terminate,
}

/// What a client did wrong. It ends the session.
pub(crate) type Violation = Report;

pub(super) fn violation(message: impl Into<Cow<'static, str>>) -> Violation {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, message)
}

impl From<Desync> for Violation {
    fn from(Desync: Desync) -> Violation {
        violation("message that the server cannot expect during COPY")
    }
}

pub(super) fn malformed(error: Malformed) -> Violation {
    violation(error.to_string())
}

/// One call's view of both sides.
struct Feed<'a> {
    client: &'a Rc<Client>,
    bytes: &'a [u8],
    run: Run<'a>,
    server: Option<Rc<Server>>,
}

/// Takes bytes that a client sent.
pub(crate) fn feed(client: &Rc<Client>, bytes: &[u8]) -> Result<Fed, Violation> {
    let mut feed =
        Feed { client, bytes, run: Run::new(bytes), server: client.server.borrow().clone() };
    let fed = feed.all();
    if let Some(server) = &feed.server {
        feed.run.flush(&server.stream);
    }
    fed
}

impl Feed<'_> {
    fn all(&mut self) -> Result<Fed, Violation> {
        let bytes = self.bytes;
        let mut at = 0;
        loop {
            let input = &mut *self.client.input.borrow_mut();
            let before = input.splitter;
            let start = at;
            let mut pieces = input.splitter.split(&bytes[at..], &FRONTEND);
            let Some(piece) = pieces.next() else { return Ok(Fed::All) };
            let piece = piece.map_err(|error| violation(error.to_string()))?;
            at += piece.raw.len();
            if piece.begins() {
                if piece.kind == kind::TERMINATE {
                    return Ok(Fed::Terminate);
                }
                if let Some(blocked) = self.blocked(&piece, start)? {
                    input.splitter = before;
                    return Ok(blocked);
                }
                input.rest = InputRest::Forward;
            }
            input.inside = !piece.ends();
            match &self.server {
                Some(server) => {
                    let server = Rc::clone(server);
                    self.with_server(&server, input, &piece, start)?;
                }
                None => self.without_server(input, &piece),
            }
        }
    }

    /// Whether the message that begins here has to wait.
    fn blocked(&mut self, piece: &Piece<'_>, start: usize) -> Result<Option<Fed>, Violation> {
        let config = self.client.route.config();
        if u64::from(piece.body_bytes) > config.max_packet_size {
            return Err(violation("message is longer than max_packet_size"));
        }
        if piece.kind == kind::PARSE && piece.body_bytes > STATEMENT_BYTES_MAX {
            return Err(violation("statement is too long to be prepared"));
        }
        if let Some(server) = &self.server {
            let queued = server.stream.queued() + self.run.len();
            let full = queued > SERVER_SEND_BYTES_HIGH
                || server.pending.borrow().len() >= PENDING_REQUESTS_MAX;
            return Ok(full.then_some(Fed::Full(start)));
        }
        if !needs_server(piece) || self.answers_parse(piece)? {
            return Ok(None);
        }
        match self.client.acquire()? {
            Some(server) => {
                self.server = Some(server);
                Ok(self.client.settling.get().then_some(Fed::Full(start)))
            }
            None => Ok(Some(Fed::Waits(start))),
        }
    }

    /// Answers the Parse of a statement that a server has accepted before, for this client or
    /// another: no server need be waited for. (A program that prepares on one connection while
    /// others of its own hold all servers would wait for good.)
    fn answers_parse(&self, piece: &Piece<'_>) -> Result<bool, Violation> {
        let (kind::PARSE, Some(body)) = (piece.kind, piece.whole()) else { return Ok(false) };
        let name = parse_name(body).map_err(malformed)?;
        if self.client.route.config().max_prepared == 0
            || name.is_empty()
            || self.client.statement(name).is_some()
        {
            return Ok(false);
        }
        let identity = Parse::identity(body).map_err(malformed)?;
        let statement = self.client.route.per_core.statements.intern(identity);
        if !statement.accepted.get() {
            return Ok(false);
        }
        self.client.name_statement(name, &statement)?;
        self.client.route.stats.count(|counters| counters.client_parse_count += 1);
        Ok(true)
    }

    /// Messages that mean nothing while no server is held, or that we can answer.
    fn without_server(&self, input: &mut Input, piece: &Piece<'_>) {
        if piece.begins() {
            input.rest = InputRest::Swallow;
            let answer: &[u8] = match piece.kind {
                kind::SYNC => b"Z\0\0\0\x05I",
                kind::PARSE => b"1\0\0\0\x04",
                kind::CLOSE => {
                    if let (Some(Ok(Target::Statement(name))), Some(statements)) = (
                        piece.whole().map(Target::read_close),
                        &mut *self.client.statements.borrow_mut(),
                    ) {
                        statements.remove(name);
                    }
                    b"3\0\0\0\x04"
                }
                _ => b"",
            };
            self.client.stream.queue(answer);
        }
    }

    fn with_server(
        &mut self,
        server: &Rc<Server>,
        input: &mut Input,
        piece: &Piece<'_>,
        start: usize,
    ) -> Result<(), Violation> {
        if piece.begins() && is_request(piece.kind) && server.pending.borrow().is_empty() {
            self.client.requesting(server);
        }
        if !piece.begins() && input.rest != InputRest::Gather {
            self.forward(server, piece, start);
            return Ok(());
        }
        let rewritten =
            matches!(piece.kind, kind::PARSE | kind::BIND | kind::DESCRIBE | kind::CLOSE)
                && self.client.route.config().max_prepared > 0;
        if !rewritten {
            self.plain(server, piece)?;
            self.forward(server, piece, start);
            return Ok(());
        }
        if let Some(body) = piece.whole() {
            return self.rewrite(server, piece, start, body);
        }
        self.gather(server, input, piece)
    }

    fn forward(&mut self, server: &Server, piece: &Piece<'_>, start: usize) {
        if piece.carried > 0 {
            self.run.flush(&server.stream);
            server.stream.queue(&piece.header()[..usize::from(piece.carried)]);
        }
        self.run.add(start..start + piece.raw.len(), &server.stream);
    }

    /// A message that goes on as it is.
    fn plain(&self, server: &Server, piece: &Piece<'_>) -> Result<(), Violation> {
        let expect = match piece.kind {
            kind::QUERY => {
                if self.client.route.config().disable_pqexec {
                    return Err(violation("simple query protocol is disabled (disable_pqexec)"));
                }
                // Running a simple query drops the unnamed statement.
                server.statements.borrow_mut().unnamed = 0;
                if let Some(statements) = &mut *self.client.statements.borrow_mut() {
                    statements.unnamed = None;
                }
                Expect::Query
            }
            kind::PARSE => Expect::PlainParse,
            kind::BIND => Expect::Bind,
            kind::DESCRIBE => match piece.bytes().first() {
                Some(b'P') => Expect::DescribePortal,
                // Or it is not known yet: then what may answer either.
                _ => Expect::DescribeStatement,
            },
            kind::EXECUTE => Expect::Execute,
            kind::CLOSE => Expect::Close,
            kind::SYNC => Expect::Sync,
            kind::FUNCTION_CALL => Expect::FunctionCall,
            kind::COPY_DONE | kind::COPY_FAIL => Expect::CopyEnd,
            kind::COPY_DATA | kind::FLUSH => return Ok(()),
            other => return Err(malformed(Malformed::Kind(other))),
        };
        Ok(server.pending.borrow_mut().push(expect)?)
    }

    /// A message about a statement that has not arrived in full. Of a Bind only the names are
    /// waited for: its values can be long.
    #[cold]
    fn gather(
        &mut self,
        server: &Rc<Server>,
        input: &mut Input,
        piece: &Piece<'_>,
    ) -> Result<(), Violation> {
        input.rest = InputRest::Gather;
        let gathered = input.gathered.get_or_insert_default();
        gathered.extend_from_slice(piece.bytes());
        if piece.kind == kind::BIND && !piece.ends() {
            if BindHead::read(gathered).is_err() {
                let long = gathered.len() > NAMES_BYTES_MAX;
                return if long { Err(violation("name is too long")) } else { Ok(()) };
            }
            input.rest = InputRest::Forward;
        } else if !piece.ends() {
            return Ok(());
        }
        let body = input.gathered.take().map(|gathered| *gathered).unwrap_or_default();
        let message = Message { kind: piece.kind, body_bytes: piece.body_bytes, body: &body };
        match rewrite::rewrite(self.client, server, &mut self.run, message)? {
            Verdict::AsIs => {
                self.run.flush(&server.stream);
                server.stream.queue(&piece.header());
                server.stream.queue(&body);
            }
            Verdict::From(at) => {
                self.run.flush(&server.stream);
                server.stream.queue(&body[at..]);
            }
            Verdict::Done => {}
        }
        send_due_fakes(self.client, server);
        Ok(())
    }

    /// A whole message about a statement.
    fn rewrite(
        &mut self,
        server: &Rc<Server>,
        piece: &Piece<'_>,
        start: usize,
        body: &[u8],
    ) -> Result<(), Violation> {
        let message = Message { kind: piece.kind, body_bytes: piece.body_bytes, body };
        let end = start + piece.raw.len();
        match rewrite::rewrite(self.client, server, &mut self.run, message)? {
            Verdict::AsIs => self.forward(server, piece, start),
            Verdict::From(at) => self.run.add(end - (body.len() - at)..end, &server.stream),
            Verdict::Done => {}
        }
        send_due_fakes(self.client, server);
        Ok(())
    }
}

/// Whether a message cannot be dealt with while the client holds no server.
fn needs_server(piece: &Piece<'_>) -> bool {
    match piece.kind {
        kind::SYNC | kind::FLUSH | kind::COPY_DATA | kind::COPY_DONE | kind::COPY_FAIL => false,
        // Closing what does not exist is not an error.
        kind::CLOSE => piece.whole().is_none(),
        _ => true,
    }
}

const fn is_request(kind: u8) -> bool {
    !matches!(kind, kind::FLUSH | kind::COPY_DATA | kind::COPY_DONE | kind::COPY_FAIL)
}
