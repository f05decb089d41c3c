//! The packets that open a connection, before messages have a kind byte.
//!
//! Each is a length word (which counts itself), a code word and a body:
//!
//! | code | packet | body |
//! |---|---|---|
//! | 80877103 | SSLRequest | none |
//! | 80877104 | GSSENCRequest | none |
//! | 80877102 | CancelRequest | process id (4 bytes), key (4 bytes; up to 256 since 3.2) |
//! | major << 16 \| minor | StartupMessage | (name, value) strings, an empty string ends them |
//!
//! A first byte of 0x16 is instead the start of a TLS ClientHello: direct TLS, as of PostgreSQL 17.

use std::fmt;

use super::read::Reader;
use super::write;
use crate::limits::{CANCEL_KEY_BYTES_MAX, STARTUP_BYTES_MAX};
use crate::sqlstate::SqlState;

const SSL_REQUEST_CODE: u32 = 80_877_103;
const GSSENC_REQUEST_CODE: u32 = 80_877_104;
const CANCEL_REQUEST_CODE: u32 = 80_877_102;
/// The content type `handshake` of a TLS record. As the first byte of a length word it would
/// announce 352 MB or more, so the two cannot be confused.
const TLS_HANDSHAKE: u8 = 0x16;

/// A version of the frontend/backend protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion(pub u32);

impl ProtocolVersion {
    pub const V3_0: ProtocolVersion = ProtocolVersion::new(3, 0);
    /// Never used by any server; asking for it must still lead to an answer.
    pub const V3_1: ProtocolVersion = ProtocolVersion::new(3, 1);
    /// PostgreSQL 18: cancel keys of up to 256 bytes.
    pub const V3_2: ProtocolVersion = ProtocolVersion::new(3, 2);
    /// The newest that we speak.
    pub const LATEST: ProtocolVersion = ProtocolVersion::V3_2;
    /// A minor version that will never exist. libpq asks for it to find middleboxes that cannot
    /// negotiate.
    pub const GREASE: ProtocolVersion = ProtocolVersion::new(3, 9999);

    pub const fn new(major: u16, minor: u16) -> ProtocolVersion {
        ProtocolVersion((major as u32) << 16 | minor as u32)
    }

    pub const fn major(self) -> u32 {
        self.0 >> 16
    }

    pub const fn minor(self) -> u32 {
        self.0 & 0xFFFF
    }

    /// Whether cancel keys may be longer than four bytes.
    pub fn has_long_cancel_keys(self) -> bool {
        self >= ProtocolVersion::V3_2
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl fmt::Debug for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the first bytes of a connection (or those after an answered SSLRequest) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// No full packet yet; at least this many more bytes are needed.
    More(usize),
    /// A TLS ClientHello: hand all bytes to the TLS server. It must offer ALPN `postgresql`.
    DirectTls,
    /// A packet, and how many bytes of the input it took. Bytes beyond a request for encryption
    /// must not be there: see [`Packet::may_be_followed`].
    Packet(Packet<'a>, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Ssl,
    Gss,
    Cancel(Cancel<'a>),
    Startup(Startup<'a>),
}

impl Packet<'_> {
    /// Whether a client may send more before it is answered. After a request for encryption it
    /// may not: plain bytes that arrive together with it would be taken for encrypted ones
    /// (CVE-2021-23214).
    pub const fn may_be_followed(&self) -> bool {
        !matches!(self, Packet::Ssl | Packet::Gss)
    }
}

/// Looks at the first bytes of a connection. Call again with more after [`Opening::More`].
pub fn open(bytes: &[u8]) -> Result<Opening<'_>, StartupError> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Opening::DirectTls);
    }
    let mut reader = Reader::new(bytes);
    let Ok(length) = reader.u32() else {
        return Ok(Opening::More(4 - bytes.len()));
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(8..=STARTUP_BYTES_MAX + 4).contains(&length) {
        return Err(StartupError::Length);
    }
    match bytes.get(4..length) {
        Some(body) => Ok(Opening::Packet(read_packet(body)?, length)),
        None => Ok(Opening::More(length - bytes.len())),
    }
}

fn read_packet(body: &[u8]) -> Result<Packet<'_>, StartupError> {
    let mut reader = Reader::new(body);
    let code = reader.u32().map_err(|_short| StartupError::Length)?;
    let rest = reader.rest();
    match code {
        SSL_REQUEST_CODE if rest.is_empty() => Ok(Packet::Ssl),
        GSSENC_REQUEST_CODE if rest.is_empty() => Ok(Packet::Gss),
        SSL_REQUEST_CODE | GSSENC_REQUEST_CODE => Err(StartupError::Length),
        CANCEL_REQUEST_CODE => Cancel::read(rest).map(Packet::Cancel),
        version => Startup::read(ProtocolVersion(version), rest).map(Packet::Startup),
    }
}

/// A request to cancel what a session is running, sent on a connection of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cancel<'a> {
    pub process_id: u32,
    /// 1 to 256 bytes; compare it in constant time with [`crate::auth::equal`].
    pub key: &'a [u8],
}

impl<'a> Cancel<'a> {
    fn read(body: &'a [u8]) -> Result<Cancel<'a>, StartupError> {
        let mut reader = Reader::new(body);
        let process_id = reader.u32().map_err(|_short| StartupError::CancelLength)?;
        let key = reader.rest();
        if !(1..=CANCEL_KEY_BYTES_MAX).contains(&key.len()) {
            return Err(StartupError::CancelKeyLength);
        }
        Ok(Cancel { process_id, key })
    }
}

/// The key is a secret: whoever knows it can cancel.
impl fmt::Debug for Cancel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// A StartupMessage of protocol 3: the version that the client asks for, and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Startup<'a> {
    pub version: ProtocolVersion,
    /// The pairs, without the final empty string; checked.
    parameters: &'a [u8],
}

impl<'a> Startup<'a> {
    fn read(version: ProtocolVersion, body: &'a [u8]) -> Result<Startup<'a>, StartupError> {
        if version.major() != 3 {
            return Err(StartupError::Version(version));
        }
        let mut reader = Reader::new(body);
        let mut end = 0;
        loop {
            let name = reader.string().map_err(|_no_end| StartupError::Layout)?;
            if name.is_empty() {
                break;
            }
            reader.string().map_err(|_no_end| StartupError::Layout)?;
            end = body.len() - reader.rest().len();
        }
        if !reader.is_empty() {
            return Err(StartupError::Layout);
        }
        Ok(Startup { version, parameters: body.get(..end).unwrap_or_default() })
    }

    /// All (name, value) pairs in the order sent, duplicates and `_pq_.` options included.
    pub const fn parameters(&self) -> Parameters<'a> {
        Parameters { reader: Reader::new(self.parameters) }
    }

    /// A parameter's value. If it is there twice the last counts, as in Postgres.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.parameters().filter(|(other, _)| *other == name.as_bytes()).last().map(|(_, v)| v)
    }

    /// The user's name; it must be there and not empty.
    pub fn user(&self) -> Result<&'a [u8], StartupError> {
        self.get("user").filter(|user| !user.is_empty()).ok_or(StartupError::NoUser)
    }

    /// The database asked for: that of the user's name if none is named.
    pub fn database(&self) -> Result<&'a [u8], StartupError> {
        match self.get("database").filter(|database| !database.is_empty()) {
            Some(database) => Ok(database),
            None => self.user(),
        }
    }

    /// Whether, and how, this is to be a replication connection.
    pub fn replication(&self) -> Result<Replication, StartupError> {
        match self.get("replication") {
            None => Ok(Replication::None),
            Some(b"database") => Ok(Replication::Logical),
            Some(text) => match boolean(text) {
                Some(true) => Ok(Replication::Physical),
                Some(false) => Ok(Replication::None),
                None => Err(StartupError::Replication),
            },
        }
    }

    /// Names of the protocol options (`_pq_.something`) asked for. We know none.
    pub fn protocol_options(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.parameters().map(|(name, _)| name).filter(|name| name.starts_with(b"_pq_."))
    }

    /// The version to speak: the client's, but no newer than `latest` (major version 3).
    pub fn version_to_speak(&self, latest: ProtocolVersion) -> ProtocolVersion {
        self.version.min(latest)
    }

    /// Whether NegotiateProtocolVersion must be sent before anything else: the client asked for a
    /// newer minor version than `latest`, or for protocol options.
    pub fn needs_negotiation(&self, latest: ProtocolVersion) -> bool {
        self.version > latest || self.protocol_options().next().is_some()
    }
}

/// The mode that the `replication` parameter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    None,
    /// `true`: a walsender without a database.
    Physical,
    /// `database`: a walsender connected to a database.
    Logical,
}

/// Iterator over (name, value).
#[derive(Clone, Debug)]
pub struct Parameters<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        Some((self.reader.string().ok()?, self.reader.string().ok()?))
    }
}

/// A boolean as Postgres' `parse_bool` reads it: any unambiguous beginning of true, false, yes,
/// no, on, off, or a digit, in any case.
pub fn boolean(text: &[u8]) -> Option<bool> {
    let words: [(&[u8], usize, bool); 8] = [
        (b"true", 1, true),
        (b"false", 1, false),
        (b"yes", 1, true),
        (b"no", 1, false),
        (b"on", 2, true),
        (b"off", 2, false),
        (b"1", 1, true),
        (b"0", 1, false),
    ];
    words
        .iter()
        .find(|(word, shortest, _)| {
            text.len() >= *shortest
                && word.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
        })
        .map(|(_, _, value)| *value)
}

/// Appends an SSLRequest.
pub fn write_ssl_request(out: &mut Vec<u8>) {
    write::packet(out, |out| write::u32(out, SSL_REQUEST_CODE));
}

/// Appends a GSSENCRequest.
pub fn write_gssenc_request(out: &mut Vec<u8>) {
    write::packet(out, |out| write::u32(out, GSSENC_REQUEST_CODE));
}

/// Appends a CancelRequest.
pub fn write_cancel_request(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    write::packet(out, |out| {
        write::u32(out, CANCEL_REQUEST_CODE);
        write::u32(out, process_id);
        out.extend_from_slice(key);
    });
}

/// Appends a StartupMessage. A pair with an empty name would end the list, so it is left out.
pub fn write_startup<'p>(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (&'p [u8], &'p [u8])>,
) {
    write::packet(out, |out| {
        write::u32(out, version.0);
        for (name, value) in parameters {
            if !matches!(name, [] | [0, ..]) {
                write::string(out, name);
                write::string(out, value);
            }
        }
        out.push(0);
    });
}

/// Why a connection cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupError {
    /// The length word is out of bounds. Postgres closes without an answer: this is not a client.
    Length,
    /// A CancelRequest without a process id.
    CancelLength,
    /// A cancel key that is empty or longer than 256 bytes.
    CancelKeyLength,
    /// A major version other than 3.
    Version(ProtocolVersion),
    /// The parameters are not pairs of strings with an empty string at the very end.
    Layout,
    /// No `user` parameter.
    NoUser,
    /// The `replication` parameter is neither a boolean nor `database`.
    Replication,
}

impl StartupError {
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            StartupError::Version(_) => SqlState::FEATURE_NOT_SUPPORTED,
            StartupError::NoUser => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            StartupError::Replication => SqlState::INVALID_PARAMETER_VALUE,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Whether the other side speaks the protocol enough to read an ErrorResponse. If not,
    /// Postgres closes without a word, and so do we.
    pub const fn deserves_answer(&self) -> bool {
        !matches!(
            self,
            StartupError::Length | StartupError::CancelLength | StartupError::CancelKeyLength
        )
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupError::Length => f.write_str("invalid length of startup packet"),
            StartupError::CancelLength => f.write_str("invalid length of cancel request packet"),
            StartupError::CancelKeyLength => {
                f.write_str("invalid length of cancel key in cancel request packet")
            }
            StartupError::Version(version) => write!(
                f,
                "unsupported frontend protocol {version}: server supports 3.0 to {}",
                ProtocolVersion::LATEST
            ),
            StartupError::Layout => {
                f.write_str("invalid startup packet layout: expected terminator as last byte")
            }
            StartupError::NoUser => {
                f.write_str("no PostgreSQL user name specified in startup packet")
            }
            StartupError::Replication => f.write_str("invalid value for parameter \"replication\""),
        }
    }
}

impl std::error::Error for StartupError {}
