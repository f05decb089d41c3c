//! Messages that a server sends.
//!
//! [`Message::read`] gives any of them as a checked view. ErrorResponse and NoticeResponse bodies
//! are read by [`super::error`].

pub mod write;

use super::Malformed;
use super::error::ErrorFields;
pub use super::frontend::{Format, Formats, Values};
use super::read::Reader;
use super::startup::ProtocolVersion;
use crate::limits::{CANCEL_KEY_BYTES_MAX, CANCEL_KEY_BYTES_V30};
use crate::oid::Oid;

/// Kind bytes.
pub mod kind {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';

    /// Every kind, for limits tables and tests.
    pub const ALL: [u8; 24] = [
        AUTHENTICATION,
        BACKEND_KEY_DATA,
        BIND_COMPLETE,
        CLOSE_COMPLETE,
        COMMAND_COMPLETE,
        COPY_BOTH,
        COPY_DATA,
        COPY_DONE,
        COPY_IN,
        COPY_OUT,
        DATA_ROW,
        EMPTY_QUERY,
        ERROR,
        FUNCTION_CALL_RESPONSE,
        NEGOTIATE_PROTOCOL_VERSION,
        NO_DATA,
        NOTICE,
        NOTIFICATION,
        PARAMETER_DESCRIPTION,
        PARAMETER_STATUS,
        PARSE_COMPLETE,
        PORTAL_SUSPENDED,
        READY_FOR_QUERY,
        ROW_DESCRIPTION,
    ];
}

/// Any message of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Authentication(Authentication<'a>),
    BackendKeyData(BackendKeyData<'a>),
    BindComplete,
    CloseComplete,
    CommandComplete(CommandTag<'a>),
    CopyBoth(CopyResponse<'a>),
    CopyData(&'a [u8]),
    CopyDone,
    CopyIn(CopyResponse<'a>),
    CopyOut(CopyResponse<'a>),
    DataRow(Values<'a>),
    EmptyQuery,
    Error(ErrorFields<'a>),
    /// The function's result, `None` for NULL.
    FunctionCallResponse(Option<&'a [u8]>),
    NegotiateProtocolVersion(NegotiateProtocolVersion<'a>),
    NoData,
    Notice(ErrorFields<'a>),
    Notification(Notification<'a>),
    ParameterDescription(ParameterDescription<'a>),
    ParameterStatus(ParameterStatus<'a>),
    ParseComplete,
    PortalSuspended,
    ReadyForQuery(TransactionStatus),
    RowDescription(RowDescription<'a>),
}

impl<'a> Message<'a> {
    /// Reads the body of a message of this kind, and checks all of it.
    pub fn read(kind: u8, body: &'a [u8]) -> Result<Message<'a>, Malformed> {
        use Message as M;
        let empty = |message| Reader::new(body).end().map(|()| message);
        match kind {
            kind::AUTHENTICATION => Authentication::read(body).map(M::Authentication),
            kind::BACKEND_KEY_DATA => BackendKeyData::read(body).map(M::BackendKeyData),
            kind::BIND_COMPLETE => empty(M::BindComplete),
            kind::CLOSE_COMPLETE => empty(M::CloseComplete),
            kind::COMMAND_COMPLETE => CommandTag::read(body).map(M::CommandComplete),
            kind::COPY_BOTH => CopyResponse::read(body).map(M::CopyBoth),
            kind::COPY_DATA => Ok(M::CopyData(body)),
            kind::COPY_DONE => empty(M::CopyDone),
            kind::COPY_IN => CopyResponse::read(body).map(M::CopyIn),
            kind::COPY_OUT => CopyResponse::read(body).map(M::CopyOut),
            kind::DATA_ROW => data_row(body).map(M::DataRow),
            kind::EMPTY_QUERY => empty(M::EmptyQuery),
            kind::ERROR => ErrorFields::read(body).map(M::Error),
            kind::FUNCTION_CALL_RESPONSE => function_result(body).map(M::FunctionCallResponse),
            kind::NEGOTIATE_PROTOCOL_VERSION => {
                NegotiateProtocolVersion::read(body).map(M::NegotiateProtocolVersion)
            }
            kind::NO_DATA => empty(M::NoData),
            kind::NOTICE => ErrorFields::read(body).map(M::Notice),
            kind::NOTIFICATION => Notification::read(body).map(M::Notification),
            kind::PARAMETER_DESCRIPTION => {
                ParameterDescription::read(body).map(M::ParameterDescription)
            }
            kind::PARAMETER_STATUS => ParameterStatus::read(body).map(M::ParameterStatus),
            kind::PARSE_COMPLETE => empty(M::ParseComplete),
            kind::PORTAL_SUSPENDED => empty(M::PortalSuspended),
            kind::READY_FOR_QUERY => TransactionStatus::read(body).map(M::ReadyForQuery),
            kind::ROW_DESCRIPTION => RowDescription::read(body).map(M::RowDescription),
            other => Err(Malformed::Kind(other)),
        }
    }
}

/// What a server demands, or says, during authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    KerberosV5,
    CleartextPassword,
    Md5Password { salt: [u8; 4] },
    Gss,
    GssContinue(&'a [u8]),
    Sspi,
    Sasl(Mechanisms<'a>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
}

impl<'a> Authentication<'a> {
    pub fn read(body: &'a [u8]) -> Result<Authentication<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let read = match reader.i32()? {
            0 => Authentication::Ok,
            2 => Authentication::KerberosV5,
            3 => Authentication::CleartextPassword,
            5 => {
                let salt = reader.u32()?.to_be_bytes();
                Authentication::Md5Password { salt }
            }
            7 => Authentication::Gss,
            8 => Authentication::GssContinue(reader.take_rest()),
            9 => Authentication::Sspi,
            10 => Authentication::Sasl(Mechanisms::read(&mut reader)?),
            11 => Authentication::SaslContinue(reader.take_rest()),
            12 => Authentication::SaslFinal(reader.take_rest()),
            _ => return Err(Malformed::Field { message: "Authentication", field: "request" }),
        };
        reader.end()?;
        Ok(read)
    }
}

/// SASL mechanisms in the server's order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms<'a> {
    names: Strings<'a>,
}

impl<'a> Mechanisms<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Mechanisms<'a>, Malformed> {
        let bytes = reader.rest();
        let mut count = 0;
        while !reader.string()?.is_empty() {
            count += 1;
        }
        Ok(Mechanisms { names: Strings { left: count, bytes } })
    }

    pub const fn names(&self) -> Strings<'a> {
        self.names
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names().any(|other| other == name.as_bytes())
    }
}

/// A list of strings, checked when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strings<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let text = reader.string().ok()?;
        self.bytes = reader.rest();
        Some(text)
    }
}

/// What a client must show to cancel this session's queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    pub process_id: u32,
    /// Four bytes under 3.0, 4 to 256 under 3.2.
    pub key: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    pub fn read(body: &'a [u8]) -> Result<BackendKeyData<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let process_id = reader.u32()?;
        let key = reader.rest();
        if !(CANCEL_KEY_BYTES_V30..=CANCEL_KEY_BYTES_MAX).contains(&key.len()) {
            return Err(Malformed::Field { message: "BackendKeyData", field: "key" });
        }
        Ok(BackendKeyData { process_id, key })
    }
}

/// What a command did: `SELECT 5`, `INSERT 0 1`, `BEGIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandTag<'a>(pub &'a [u8]);

impl<'a> CommandTag<'a> {
    pub fn read(body: &'a [u8]) -> Result<CommandTag<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let tag = CommandTag(reader.string()?);
        reader.end()?;
        Ok(tag)
    }

    /// The number at its end: rows selected, inserted, moved, copied.
    pub fn rows(&self) -> Option<u64> {
        let last = self.0.rsplit(|b| *b == b' ').next()?;
        std::str::from_utf8(last).ok()?.parse().ok()
    }
}

/// The answer that starts a COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyResponse<'a> {
    /// Text or binary as a whole.
    pub format: Format,
    pub columns: Formats<'a>,
}

impl<'a> CopyResponse<'a> {
    pub fn read(body: &'a [u8]) -> Result<CopyResponse<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let format = match reader.u8()? {
            0 => Format::Text,
            1 => Format::Binary,
            _ => return Err(Malformed::Field { message: "CopyResponse", field: "format" }),
        };
        let columns = Formats::read(&mut reader)?;
        reader.end()?;
        Ok(CopyResponse { format, columns })
    }
}

/// The values of a DataRow, `None` for NULL.
pub fn data_row(body: &[u8]) -> Result<Values<'_>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.count()?;
    let values = Values::read(&mut reader, count)?;
    reader.end()?;
    Ok(values)
}

fn function_result(body: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut reader = Reader::new(body);
    let value = reader.value()?;
    reader.end()?;
    Ok(value)
}

/// The server does not speak the minor version that was asked for, or not the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The newest that the server speaks with this client.
    pub version: ProtocolVersion,
    options: Strings<'a>,
}

impl<'a> NegotiateProtocolVersion<'a> {
    pub fn read(body: &'a [u8]) -> Result<NegotiateProtocolVersion<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let version = ProtocolVersion(reader.u32()?);
        let count = reader.u32()?;
        let bytes = reader.rest();
        // Each string takes a byte at least, so a lying count ends the loop early.
        for _ in 0..count {
            reader.string()?;
        }
        reader.end()?;
        let left = usize::try_from(count).map_err(|_count| Malformed::TooShort)?;
        Ok(NegotiateProtocolVersion { version, options: Strings { left, bytes } })
    }

    /// Protocol options that the server does not know.
    pub const fn options(&self) -> Strings<'a> {
        self.options
    }
}

/// A NOTIFY of another session (or our own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    pub process_id: u32,
    pub channel: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Notification<'a> {
    pub fn read(body: &'a [u8]) -> Result<Notification<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let process_id = reader.u32()?;
        let notification =
            Notification { process_id, channel: reader.string()?, payload: reader.string()? };
        reader.end()?;
        Ok(notification)
    }
}

/// The parameter types of a prepared statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterDescription<'a> {
    types: &'a [u8],
}

impl<'a> ParameterDescription<'a> {
    pub fn read(body: &'a [u8]) -> Result<ParameterDescription<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let count = reader.count()?;
        let types = reader.bytes(count * 4)?;
        reader.end()?;
        Ok(ParameterDescription { types })
    }

    pub fn types(&self) -> impl ExactSizeIterator<Item = Oid> + use<'a> {
        self.types.as_chunks::<4>().0.iter().map(|chunk| Oid(u32::from_be_bytes(*chunk)))
    }
}

/// The current value of a setting that the server reports (`GUC_REPORT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    pub fn read(body: &'a [u8]) -> Result<ParameterStatus<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let status = ParameterStatus { name: reader.string()?, value: reader.string()? };
        reader.end()?;
        Ok(status)
    }
}

/// Where a session stands when it is ready for the next query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// `I`: not in a transaction.
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a failed transaction block; all is refused until it is rolled back.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a ReadyForQuery.
    pub const fn read(body: &[u8]) -> Result<TransactionStatus, Malformed> {
        match body {
            [b'I'] => Ok(TransactionStatus::Idle),
            [b'T'] => Ok(TransactionStatus::InTransaction),
            [b'E'] => Ok(TransactionStatus::Failed),
            _ => Err(Malformed::Field { message: "ReadyForQuery", field: "transaction status" }),
        }
    }

    pub const fn code(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// The columns of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDescription<'a> {
    left: usize,
    bytes: &'a [u8],
}

impl<'a> RowDescription<'a> {
    pub fn read(body: &'a [u8]) -> Result<RowDescription<'a>, Malformed> {
        let mut reader = Reader::new(body);
        let left = reader.count()?;
        let bytes = reader.rest();
        for _ in 0..left {
            Field::read(&mut reader)?;
        }
        reader.end()?;
        Ok(RowDescription { left, bytes })
    }

    pub const fn len(&self) -> usize {
        self.left
    }

    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.left).map_while(move |_| Field::read(&mut reader).ok())
    }
}

/// One column of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    /// The table it comes from, or [`Oid::INVALID`].
    pub table: Oid,
    /// Attribute number in that table, or 0.
    pub column: i16,
    pub type_oid: Oid,
    /// `pg_type.typlen`: bytes, or −1 for varying.
    pub type_len: i16,
    pub type_modifier: i32,
    pub format: i16,
}

impl<'a> Field<'a> {
    /// A column of our own making, in text format.
    pub const fn text(name: &'a [u8], type_oid: Oid, type_len: i16) -> Field<'a> {
        let (table, column, type_modifier, format) = (Oid::INVALID, 0, -1, 0);
        Field { name, table, column, type_oid, type_len, type_modifier, format }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Field<'a>, Malformed> {
        Ok(Field {
            name: reader.string()?,
            table: Oid(reader.u32()?),
            column: reader.i16()?,
            type_oid: Oid(reader.u32()?),
            type_len: reader.i16()?,
            type_modifier: reader.i32()?,
            format: reader.i16()?,
        })
    }
}
