//! The wire protocol of one console client, without I/O: messages in, bytes and commands out.
//!
//! Speaks simple and extended queries, because most drivers prepare everything. What an Execute
//! yields is kept in its portal, so that a client may fetch it in parts. After an error in the
//! extended protocol everything up to Sync is skipped (PostgreSQL documentation, 55.2.3).

use std::collections::BTreeMap;

use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::Malformed;
use pg::wire::backend::{TransactionStatus, write};
use pg::wire::error::Report;
use pg::wire::frontend::{Bind, Execute, Format, Message, Parse, Target};

use super::columns::columns;
use super::statement::{self, Statement};
use super::table::{Column, Row, text, write_description, write_row};
use crate::limits::CONSOLE_STATEMENTS_MAX;

/// What the caller does after a message.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Send what has been written and read on.
    Continue,
    /// Carry this out and hand the result to [`Session::finish`] before the next message.
    Run(Statement),
    /// The client said good-bye.
    Close,
    /// Send what has been written and close.
    Fail,
}

/// What a command yields.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Rows(Vec<Row>),
    /// Done, with the tag to answer, and perhaps something to know.
    Done {
        tag: String,
        notice: Option<Report>,
    },
}

#[derive(Default)]
pub(super) struct Session {
    statements: BTreeMap<Vec<u8>, Statement>,
    portals: BTreeMap<Vec<u8>, Portal>,
    running: Option<Running>,
    /// An error happened; everything is skipped up to Sync.
    skipping: bool,
    in_transaction: bool,
}

struct Portal {
    statement: Statement,
    formats: Vec<Format>,
    /// Rows that have not been fetched yet; `None` before the first Execute.
    rest: Option<std::vec::IntoIter<Row>>,
}

enum Running {
    Simple(Statement),
    Execute { portal: Vec<u8>, rows_max: usize },
}

impl Session {
    /// Takes one message, appends answers to `out`.
    pub(super) fn message(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Next {
        let message = match Message::read(kind, body) {
            Ok(message) => message,
            Err(malformed) => {
                broken(malformed).write(out);
                return Next::Fail;
            }
        };
        if self.skipping && !matches!(message, Message::Sync | Message::Terminate) {
            return Next::Continue;
        }
        let result = match message {
            Message::Query(sql) => return self.query(sql, out),
            Message::Terminate => return Next::Close,
            Message::Sync => {
                self.skipping = false;
                if !self.in_transaction {
                    self.portals.clear();
                }
                self.ready(out);
                return Next::Continue;
            }
            Message::Flush => Ok(Next::Continue),
            Message::Parse(parse) => self.parse(&parse, out),
            Message::Bind(bind) => self.bind(&bind, out),
            Message::Describe(target) => self.describe(target, out),
            Message::Execute(execute) => self.execute(&execute, out),
            Message::Close(target) => {
                match target {
                    Target::Statement(name) => drop(self.statements.remove(name)),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                write::close_complete(out);
                Ok(Next::Continue)
            }
            _ => {
                unsupported(kind).write(out);
                return Next::Fail;
            }
        };
        result.unwrap_or_else(|report| {
            report.write(out);
            self.skipping = true;
            Next::Continue
        })
    }

    /// Answers what [`Next::Run`] asked for.
    pub(super) fn finish(&mut self, result: Result<Outcome, Report>, out: &mut Vec<u8>) {
        match self.running.take() {
            Some(Running::Simple(statement)) => {
                match result {
                    Ok(outcome) => write_simple(out, &statement, outcome),
                    Err(report) => report.write(out),
                }
                self.ready(out);
            }
            Some(Running::Execute { portal, rows_max }) => {
                if let Err(report) = self.finish_execute(&portal, rows_max, result, out) {
                    report.write(out);
                    self.skipping = true;
                }
            }
            None => {}
        }
    }

    fn query(&mut self, sql: &[u8], out: &mut Vec<u8>) -> Next {
        // A simple query ends the unnamed statement and portal, and an error does not skip.
        self.portals.remove(&b""[..]);
        self.statements.remove(&b""[..]);
        match parse_sql(sql) {
            Ok(Statement::Empty) => {
                write::empty_query(out);
                self.ready(out);
                Next::Continue
            }
            Ok(statement) => {
                if let Some(outcome) = self.answer_at_once(&statement) {
                    write_simple(out, &statement, outcome);
                    self.ready(out);
                    return Next::Continue;
                }
                self.running = Some(Running::Simple(statement.clone()));
                Next::Run(statement)
            }
            Err(report) => {
                report.write(out);
                self.ready(out);
                Next::Continue
            }
        }
    }

    fn parse(&mut self, parse: &Parse<'_>, out: &mut Vec<u8>) -> Result<Next, Report> {
        let statement = parse_sql(parse.sql)?;
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            let name = String::from_utf8_lossy(parse.name);
            return Err(Report::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        if self.statements.len() >= CONSOLE_STATEMENTS_MAX {
            return Err(too_many("prepared statements"));
        }
        self.statements.insert(parse.name.to_vec(), statement);
        write::parse_complete(out);
        Ok(Next::Continue)
    }

    fn bind(&mut self, bind: &Bind<'_>, out: &mut Vec<u8>) -> Result<Next, Report> {
        let statement = self.statement(bind.statement)?.clone();
        if bind.values().count() > 0 {
            return Err(Report::error(
                SqlState::PROTOCOL_VIOLATION,
                "console commands have no parameters",
            ));
        }
        let columns = statement_columns(&statement).unwrap_or_default().len();
        let requested = bind.result_formats.len();
        if requested > 1 && requested != columns {
            return Err(Report::error(
                SqlState::PROTOCOL_VIOLATION,
                format!(
                    "bind message has {requested} result formats but query has {columns} columns"
                ),
            ));
        }
        let formats = (0..columns)
            .map(|index| {
                bind.result_formats.of(index).ok_or_else(|| {
                    Report::error(SqlState::PROTOCOL_VIOLATION, "unsupported format code")
                })
            })
            .collect::<Result<Vec<Format>, Report>>()?;
        if self.portals.len() >= CONSOLE_STATEMENTS_MAX {
            return Err(too_many("portals"));
        }
        self.portals.insert(bind.portal.to_vec(), Portal { statement, formats, rest: None });
        write::bind_complete(out);
        Ok(Next::Continue)
    }

    fn describe(&mut self, target: Target<'_>, out: &mut Vec<u8>) -> Result<Next, Report> {
        let (statement, formats) = match target {
            Target::Statement(name) => {
                let statement = self.statement(name)?;
                let parameters: [Oid; 0] = [];
                write::parameter_description(out, &parameters);
                (statement, None)
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.statement, Some(&portal.formats))
            }
        };
        match statement_columns(statement) {
            Some(columns) => {
                let format =
                    |index: usize| formats.map_or(Format::Text, |list| format_of(list, index));
                write_description(out, &columns, format);
            }
            None => write::no_data(out),
        }
        Ok(Next::Continue)
    }

    fn execute(&mut self, execute: &Execute<'_>, out: &mut Vec<u8>) -> Result<Next, Report> {
        let rows_max = match usize::try_from(execute.rows_max) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(rows) => rows,
        };
        let name = execute.portal;
        let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
        if portal.rest.is_some() {
            self.send_rows(name, rows_max, out)?;
            return Ok(Next::Continue);
        }
        let statement = portal.statement.clone();
        if statement == Statement::Empty {
            write::empty_query(out);
            return Ok(Next::Continue);
        }
        if let Some(outcome) = self.answer_at_once(&statement) {
            self.finish_execute(name, rows_max, Ok(outcome), out)?;
            return Ok(Next::Continue);
        }
        self.running = Some(Running::Execute { portal: name.to_vec(), rows_max });
        Ok(Next::Run(statement))
    }

    fn finish_execute(
        &mut self,
        portal: &[u8],
        rows_max: usize,
        result: Result<Outcome, Report>,
        out: &mut Vec<u8>,
    ) -> Result<(), Report> {
        match result? {
            Outcome::Rows(rows) => {
                if let Some(portal) = self.portals.get_mut(portal) {
                    portal.rest = Some(rows.into_iter());
                }
                self.send_rows(portal, rows_max, out)
            }
            Outcome::Done { tag, notice } => {
                if let Some(notice) = notice {
                    notice.write(out);
                }
                write::command_complete(out, tag);
                Ok(())
            }
        }
    }

    /// Sends up to `rows_max` of a portal's rows.
    fn send_rows(&mut self, name: &[u8], rows_max: usize, out: &mut Vec<u8>) -> Result<(), Report> {
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        let Portal { rest: Some(rest), formats, statement } = portal else { return Ok(()) };
        for row in rest.by_ref().take(rows_max) {
            write_row(out, &row, |index| format_of(formats, index));
        }
        if rest.len() > 0 {
            write::portal_suspended(out);
        } else {
            write::command_complete(out, rows_tag(statement));
        }
        Ok(())
    }

    /// Transactions are only pretended: drivers begin one before they ask anything.
    fn answer_at_once(&mut self, statement: &Statement) -> Option<Outcome> {
        let done = |tag: &str| Some(Outcome::Done { tag: tag.to_owned(), notice: None });
        match statement {
            Statement::Begin => {
                self.in_transaction = true;
                done("BEGIN")
            }
            Statement::End(tag) => {
                self.in_transaction = false;
                done(tag)
            }
            Statement::Nothing(tag) => done(tag),
            _ => None,
        }
    }

    fn statement(&self, name: &[u8]) -> Result<&Statement, Report> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Report::error(
                SqlState::INVALID_SQL_STATEMENT_NAME,
                format!("prepared statement \"{name}\" does not exist"),
            )
        })
    }

    fn ready(&self, out: &mut Vec<u8>) {
        let status = if self.in_transaction {
            TransactionStatus::InTransaction
        } else {
            TransactionStatus::Idle
        };
        write::ready_for_query(out, status);
    }
}

/// The columns of a command's rows; `None` if it has none.
pub(super) fn statement_columns(statement: &Statement) -> Option<Vec<Column>> {
    match statement {
        Statement::Show(show) => Some(columns(*show).to_vec()),
        Statement::Parameter(name, _) | Statement::Text(name, _) => Some(vec![text(name)]),
        Statement::Number(_) => Some(vec![super::table::int("?column?")]),
        _ => None,
    }
}

fn rows_tag(statement: &Statement) -> &'static str {
    match statement {
        Statement::Number(_) | Statement::Text(..) => "SELECT 1",
        _ => "SHOW",
    }
}

fn write_simple(out: &mut Vec<u8>, statement: &Statement, outcome: Outcome) {
    match outcome {
        Outcome::Rows(rows) => {
            let columns = statement_columns(statement).unwrap_or_default();
            write_description(out, &columns, |_index| Format::Text);
            for row in &rows {
                write_row(out, row, |_index| Format::Text);
            }
            write::command_complete(out, rows_tag(statement));
        }
        Outcome::Done { tag, notice } => {
            if let Some(notice) = notice {
                notice.write(out);
            }
            write::command_complete(out, tag);
        }
    }
}

fn parse_sql(sql: &[u8]) -> Result<Statement, Report> {
    let text = std::str::from_utf8(sql).map_err(|_error| {
        Report::error(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "the command is not valid UTF-8")
    })?;
    statement::parse(text)
}

fn format_of(formats: &[Format], index: usize) -> Format {
    formats.get(index).copied().unwrap_or(Format::Text)
}

fn no_portal(name: &[u8]) -> Report {
    let name = String::from_utf8_lossy(name);
    Report::error(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

fn too_many(what: &str) -> Report {
    Report::error(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("a console client may have {CONSOLE_STATEMENTS_MAX} {what}"),
    )
}

fn broken(malformed: Malformed) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, malformed.to_string())
}

fn unsupported(kind: u8) -> Report {
    Report::fatal(
        SqlState::PROTOCOL_VIOLATION,
        format!("message type \"{}\" is not supported by the console", kind.escape_ascii()),
    )
}

#[cfg(test)]
mod tests;
