//! ErrorResponse and NoticeResponse: their fields, read and built.
//!
//! The body is a list of (code byte, string), ended by a zero byte. Codes: `S` severity in the
//! server's language, `V` severity in English, `C` SQLSTATE, `M` message, `D` detail, `H` hint,
//! `P` position, `p` internal position, `q` internal query, `W` where, `s` schema, `t` table,
//! `c` column, `d` data type, `n` constraint, `F` file, `L` line, `R` routine. Unknown codes are
//! to be ignored.

use std::borrow::Cow;
use std::fmt;

use super::read::Reader;
use super::{Malformed, backend, write};
use crate::sqlstate::SqlState;

/// How serious a report is. Only the first three are sent as ErrorResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions end.
    Panic,
    Warning,
    Notice,
    Debug,
    Info,
    Log,
}

impl Severity {
    const ALL: [Severity; 8] = [
        Severity::Error,
        Severity::Fatal,
        Severity::Panic,
        Severity::Warning,
        Severity::Notice,
        Severity::Debug,
        Severity::Info,
        Severity::Log,
    ];

    /// The English word of field `V`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Log => "LOG",
        }
    }

    /// Whether it goes out as ErrorResponse (else NoticeResponse).
    pub const fn is_error(self) -> bool {
        matches!(self, Severity::Error | Severity::Fatal | Severity::Panic)
    }

    fn from_word(word: &[u8]) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| severity.as_str().as_bytes() == word)
    }
}

/// Iterator over (code, text) of a body; checked when made by [`fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    reader: Reader<'a>,
}

/// The fields of an ErrorResponse's or NoticeResponse's body, which is checked first.
pub fn fields(body: &[u8]) -> Result<Fields<'_>, Malformed> {
    let mut reader = Reader::new(body);
    while reader.u8()? != 0 {
        reader.string()?;
    }
    reader.end()?;
    Ok(Fields { reader: Reader::new(body) })
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.u8() {
            Ok(code) if code != 0 => Some((code, self.reader.string().ok()?)),
            _ => None,
        }
    }
}

/// The fields that programs look at. Texts are bytes: before authentication is over they may be in
/// any encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ErrorFields<'a> {
    /// Localized, for people.
    pub severity: &'a [u8],
    /// `None` from servers before 9.6, whose localized severity is tried instead.
    pub severity_code: Option<Severity>,
    pub sqlstate: Option<SqlState>,
    pub message: &'a [u8],
    pub detail: Option<&'a [u8]>,
    pub hint: Option<&'a [u8]>,
    pub position: Option<&'a [u8]>,
    pub internal_position: Option<&'a [u8]>,
    pub internal_query: Option<&'a [u8]>,
    pub context: Option<&'a [u8]>,
    pub schema: Option<&'a [u8]>,
    pub table: Option<&'a [u8]>,
    pub column: Option<&'a [u8]>,
    pub data_type: Option<&'a [u8]>,
    pub constraint: Option<&'a [u8]>,
    pub file: Option<&'a [u8]>,
    pub line: Option<&'a [u8]>,
    pub routine: Option<&'a [u8]>,
}

impl<'a> ErrorFields<'a> {
    /// Reads the body of an ErrorResponse or NoticeResponse.
    pub fn read(body: &'a [u8]) -> Result<ErrorFields<'a>, Malformed> {
        let mut read = ErrorFields::default();
        for (code, text) in fields(body)? {
            match code {
                b'S' => read.severity = text,
                b'V' => read.severity_code = Severity::from_word(text),
                b'C' => read.sqlstate = SqlState::from_bytes(text),
                b'M' => read.message = text,
                b'D' => read.detail = Some(text),
                b'H' => read.hint = Some(text),
                b'P' => read.position = Some(text),
                b'p' => read.internal_position = Some(text),
                b'q' => read.internal_query = Some(text),
                b'W' => read.context = Some(text),
                b's' => read.schema = Some(text),
                b't' => read.table = Some(text),
                b'c' => read.column = Some(text),
                b'd' => read.data_type = Some(text),
                b'n' => read.constraint = Some(text),
                b'F' => read.file = Some(text),
                b'L' => read.line = Some(text),
                b'R' => read.routine = Some(text),
                _ => {}
            }
        }
        if read.severity_code.is_none() {
            read.severity_code = Severity::from_word(read.severity);
        }
        Ok(read)
    }

    /// Whether the server ends the session with this report.
    pub fn ends_session(&self) -> bool {
        matches!(self.severity_code, Some(Severity::Fatal | Severity::Panic))
    }
}

/// `FATAL: 53300: too many connections (detail)`: one line for a log.
impl fmt::Display for ErrorFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.severity))?;
        if let Some(state) = self.sqlstate {
            write!(f, ": {state}")?;
        }
        write!(f, ": {}", String::from_utf8_lossy(self.message))?;
        if let Some(detail) = self.detail {
            write!(f, " ({})", String::from_utf8_lossy(detail))?;
        }
        Ok(())
    }
}

/// An error or notice of ours, to be sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub sqlstate: SqlState,
    pub message: Cow<'static, str>,
    pub detail: Option<Cow<'static, str>>,
    pub hint: Option<Cow<'static, str>>,
    /// Position in the query, in characters from 1; 0 for none.
    pub position: u32,
}

impl Report {
    pub fn new(
        severity: Severity,
        sqlstate: SqlState,
        message: impl Into<Cow<'static, str>>,
    ) -> Report {
        let message = message.into();
        Report { severity, sqlstate, message, detail: None, hint: None, position: 0 }
    }

    /// The statement failed.
    pub fn error(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Report {
        Report::new(Severity::Error, sqlstate, message)
    }

    /// The session ends.
    pub fn fatal(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Report {
        Report::new(Severity::Fatal, sqlstate, message)
    }

    /// Something to know; SQLSTATE 00000.
    pub fn notice(message: impl Into<Cow<'static, str>>) -> Report {
        Report::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message)
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Report {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Report {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn at_position(mut self, position: u32) -> Report {
        self.position = position;
        self
    }

    /// Appends the ErrorResponse or NoticeResponse, by severity.
    pub fn write(&self, out: &mut Vec<u8>) {
        let kind =
            if self.severity.is_error() { backend::kind::ERROR } else { backend::kind::NOTICE };
        write::message(out, kind, |out| {
            let mut field = |code: u8, text: &str| {
                out.push(code);
                write::string(out, text);
            };
            field(b'S', self.severity.as_str());
            field(b'V', self.severity.as_str());
            field(b'C', self.sqlstate.as_str());
            field(b'M', &self.message);
            if let Some(detail) = &self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint);
            }
            if self.position != 0 {
                field(b'P', &self.position.to_string());
            }
            out.push(0);
        });
    }
}

/// `FATAL: 53300: too many connections`: one line for a log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity.as_str(), self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
