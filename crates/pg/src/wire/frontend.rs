//! Messages that a client sends once the connection is open.
//!
//! [`Message::read`] gives any of them as a checked view. The pooler's hot path needs less: for a
//! Bind, [`BindHead::read`] finds the two names and leaves the parameters alone.

pub mod rewrite;
pub mod write;

use super::Malformed;
use super::read::Reader;
use crate::oid::Oid;

/// Kind bytes.
pub mod kind {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share it: which one it
    /// is follows from what the server asked for.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';

    /// Every kind, for limits tables and tests.
    pub const ALL: [u8; 14] = [
        BIND,
        CLOSE,
        COPY_DATA,
        COPY_DONE,
        COPY_FAIL,
        DESCRIBE,
        EXECUTE,
        FLUSH,
        FUNCTION_CALL,
        PARSE,
        PASSWORD,
        QUERY,
        SYNC,
        TERMINATE,
    ];
}

/// Any message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Bind(Bind<'a>),
    Close(Target<'a>),
    CopyData(&'a [u8]),
    CopyDone,
    /// With the client's reason.
    CopyFail(&'a [u8]),
    Describe(Target<'a>),
    Execute(Execute<'a>),
    Flush,
    FunctionCall(FunctionCall<'a>),
    Parse(Parse<'a>),
    /// See [`password`], [`SaslInitial`] and [`sasl_response`].
    Password(&'a [u8]),
    /// The SQL text.
    Query(&'a [u8]),
    Sync,
    Terminate,
}

impl<'a> Message<'a> {
    /// Reads the body of a message of this kind, and checks all of it.
    pub fn read(kind: u8, body: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let empty = |message| Reader::new(body).end().map(|()| message);
        match kind {
            kind::BIND => Bind::read(body).map(Message::Bind),
            kind::CLOSE => Target::read_close(body).map(Message::Close),
            kind::COPY_DATA => Ok(Message::CopyData(body)),
            kind::COPY_DONE => empty(Message::CopyDone),
            kind::COPY_FAIL => only_string(body).map(Message::CopyFail),
            kind::DESCRIBE => Target::read_describe(body).map(Message::Describe),
            kind::EXECUTE => Execute::read(body).map(Message::Execute),
            kind::FLUSH => empty(Message::Flush),
            kind::FUNCTION_CALL => FunctionCall::read(body).map(Message::FunctionCall),
            kind::PARSE => Parse::read(body).map(Message::Parse),
            kind::PASSWORD => Ok(Message::Password(body)),
            kind::QUERY => query(body).map(Message::Query),
            kind::SYNC => empty(Message::Sync),
            kind::TERMINATE => empty(Message::Terminate),
            other => Err(Malformed::Kind(other)),
        }
    }
}

/// The SQL text of a Query's body.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    only_string(body)
}

fn only_string(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let text = reader.string()?;
    reader.end()?;
    Ok(text)
}

/// Parse: prepare a statement. An empty name is the unnamed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub sql: &'a [u8],
    types: &'a [u8],
}

impl<'a> Parse<'a> {
    pub fn read(body: &'a [u8]) -> Result<Parse<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let name = reader.string()?;
        let sql = reader.string()?;
        let count = reader.count()?;
        let types = reader.bytes(count * 4)?;
        reader.end()?;
        Ok(Parse { name, sql, types })
    }

    /// Parameter types that the client fixes; [`Oid::INVALID`] leaves one to the server. May be
    /// fewer than there are parameters.
    pub fn types(&self) -> impl ExactSizeIterator<Item = Oid> + use<'a> {
        self.types.as_chunks::<4>().0.iter().map(|chunk| Oid(u32::from_be_bytes(*chunk)))
    }

    /// Everything after the name as received (SQL, count, types): the identity of a statement,
    /// for a cache of prepared statements.
    pub fn identity(body: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let mut reader = Reader::new(body);
        reader.string()?;
        Ok(reader.rest())
    }
}

/// The statement that a Parse names, without reading further.
pub fn parse_name(body: &[u8]) -> Result<&[u8], Malformed> {
    Reader::new(body).string()
}

/// The two names at the start of a Bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindHead<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Bytes of the body that the names and their terminators take: the rest can be forwarded.
    pub bytes: usize,
}

impl<'a> BindHead<'a> {
    /// Reads the names from a body or, if a large message is still arriving, from its beginning:
    /// then [`Malformed::UnterminatedString`] may only mean that more is needed.
    pub fn read(body: &'a [u8]) -> Result<BindHead<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let portal = reader.string()?;
        let statement = reader.string()?;
        Ok(BindHead { portal, statement, bytes: body.len() - reader.rest().len() })
    }
}

/// Bind: make a portal of a statement and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub parameter_formats: Formats<'a>,
    values: Values<'a>,
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    pub fn read(body: &'a [u8]) -> Result<Bind<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let portal = reader.string()?;
        let statement = reader.string()?;
        let parameter_formats = Formats::read(&mut reader)?;
        let parameters = reader.count()?;
        let formats = parameter_formats.len();
        if formats > 1 && formats != parameters {
            return Err(Malformed::ParameterFormats { formats, parameters });
        }
        let values = Values::read(&mut reader, parameters)?;
        let result_formats = Formats::read(&mut reader)?;
        reader.end()?;
        Ok(Bind { portal, statement, parameter_formats, values, result_formats })
    }

    /// The parameters, `None` for NULL.
    pub const fn values(&self) -> Values<'a> {
        self.values
    }
}

/// A counted list of values, as in Bind, FunctionCall and DataRow; checked when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// Checks `count` values and keeps their bytes.
    pub(crate) fn read(reader: &mut Reader<'a>, count: usize) -> Result<Values<'a>, Malformed> {
        let bytes = reader.rest();
        for _ in 0..count {
            reader.value()?;
        }
        let taken = bytes.len() - reader.rest().len();
        Ok(Values { left: count, bytes: bytes.get(..taken).unwrap_or_default() })
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let value = reader.value().ok()?;
        self.bytes = reader.rest();
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// How a value is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

impl Format {
    pub const fn code(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

/// A counted list of format codes: none means all text, one counts for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats<'a> {
    codes: &'a [u8],
}

impl<'a> Formats<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Formats<'a>, Malformed> {
        let count = reader.count()?;
        Ok(Formats { codes: reader.bytes(count * 2)? })
    }

    /// Codes as sent: 0 text, 1 binary; others are for the server to refuse.
    pub fn codes(&self) -> impl ExactSizeIterator<Item = i16> + use<'a> {
        self.codes.as_chunks::<2>().0.iter().map(|chunk| i16::from_be_bytes(*chunk))
    }

    pub const fn len(&self) -> usize {
        self.codes.len() / 2
    }

    pub const fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The format that counts for value number `index` (from 0); an unknown code is `None`.
    pub fn of(&self, index: usize) -> Option<Format> {
        let code = match self.len() {
            0 => Some(0),
            1 => self.codes().next(),
            _ => self.codes().nth(index),
        };
        match code? {
            0 => Some(Format::Text),
            1 => Some(Format::Binary),
            _ => None,
        }
    }
}

/// What a Describe or Close is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    pub fn read_describe(body: &'a [u8]) -> Result<Target<'a>, Malformed> {
        Target::read(body, "DESCRIBE")
    }

    pub fn read_close(body: &'a [u8]) -> Result<Target<'a>, Malformed> {
        Target::read(body, "CLOSE")
    }

    fn read(body: &'a [u8], message: &'static str) -> Result<Target<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let subtype = reader.u8()?;
        let name = reader.string()?;
        reader.end()?;
        match subtype {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(Malformed::Subtype { message, subtype }),
        }
    }

    pub const fn name(&self) -> &'a [u8] {
        match self {
            Target::Statement(name) | Target::Portal(name) => name,
        }
    }
}

/// Execute: run a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    /// Stop after so many rows; 0 or less for all of them.
    pub rows_max: i32,
}

impl<'a> Execute<'a> {
    pub fn read(body: &'a [u8]) -> Result<Execute<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let execute = Execute { portal: reader.string()?, rows_max: reader.i32()? };
        reader.end()?;
        Ok(execute)
    }
}

/// FunctionCall: the old fast path, which large-object functions of libpq still use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionCall<'a> {
    pub function: Oid,
    pub argument_formats: Formats<'a>,
    pub arguments: Values<'a>,
    pub result_format: i16,
}

impl<'a> FunctionCall<'a> {
    pub fn read(body: &'a [u8]) -> Result<FunctionCall<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let function = Oid(reader.u32()?);
        let argument_formats = Formats::read(&mut reader)?;
        let count = reader.count()?;
        let arguments = Values::read(&mut reader, count)?;
        let result_format = reader.i16()?;
        reader.end()?;
        Ok(FunctionCall { function, argument_formats, arguments, result_format })
    }
}

/// PasswordMessage: the clear password or the md5 response.
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    only_string(body)
}

/// SASLInitialResponse: the chosen mechanism and the first message of the client, if it comes at
/// once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a [u8],
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    pub fn read(body: &'a [u8]) -> Result<SaslInitial<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let initial = SaslInitial { mechanism: reader.string()?, data: reader.value()? };
        reader.end()?;
        Ok(initial)
    }
}

/// SASLResponse: all of the body is the mechanism's.
pub const fn sasl_response(body: &[u8]) -> &[u8] {
    body
}
