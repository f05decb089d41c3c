//! Cutting a byte stream into messages, without copying and wherever the reads happen to end.
//!
//! A [`Splitter`] is the whole state of a direction of a connection between two reads: 16 bytes.
//! Given the bytes of one read it yields [`Piece`]s: whole messages as long as they are whole,
//! then perhaps the start of one that goes on in the next read.
//!
//! Every byte of the input belongs to exactly one piece's [`Piece::raw`], in order, except up to
//! four bytes of a header at the very end: the splitter keeps those, and the next read's first
//! piece tells by [`Piece::carried`] how many there were. To forward a message as it stands, send
//! those (from [`Piece::header`]) and then the `raw` bytes.

use std::fmt;

use super::{backend, frontend};
use crate::limits::{AUTHENTICATION_BYTES_MAX, LARGE_MESSAGE_BYTES_MAX, SMALL_MESSAGE_BYTES_MAX};
use crate::sqlstate::SqlState;

/// Kind byte and length word.
pub const HEADER_BYTES: usize = 5;

/// Longest allowed body for each kind byte; 0 means that no such message exists, and is written
/// as `None` outside.
pub struct KindLimits {
    /// Bytes of the length word's value, so that "empty body" is 4 and 0 stays free.
    length_max: [u32; 256],
}

impl KindLimits {
    /// No kind is allowed.
    pub const fn none() -> KindLimits {
        KindLimits { length_max: [0; 256] }
    }

    /// The same table with up to `body_bytes_max` for messages of this kind.
    #[must_use]
    pub const fn with(mut self, kind: u8, body_bytes_max: u32) -> KindLimits {
        let mut kinds: &mut [u32] = &mut self.length_max;
        let mut skip = kind;
        while let Some((first, rest)) = kinds.split_first_mut() {
            if skip == 0 {
                *first = body_bytes_max.saturating_add(4);
                break;
            }
            skip -= 1;
            kinds = rest;
        }
        self
    }

    const fn with_all(mut self, mut kinds: &[u8], body_bytes_max: u32) -> KindLimits {
        while let Some((kind, rest)) = kinds.split_first() {
            self = self.with(*kind, body_bytes_max);
            kinds = rest;
        }
        self
    }

    fn length_max(&self, kind: u8) -> u32 {
        self.length_max.get(usize::from(kind)).copied().unwrap_or(0)
    }
}

/// What a client may send: as `SocketBackend` (postgres.c) has it.
pub static FRONTEND: KindLimits = KindLimits::none()
    .with_all(&frontend::kind::ALL, SMALL_MESSAGE_BYTES_MAX)
    .with(frontend::kind::BIND, LARGE_MESSAGE_BYTES_MAX)
    .with(frontend::kind::COPY_DATA, LARGE_MESSAGE_BYTES_MAX)
    .with(frontend::kind::FUNCTION_CALL, LARGE_MESSAGE_BYTES_MAX)
    .with(frontend::kind::PARSE, LARGE_MESSAGE_BYTES_MAX)
    .with(frontend::kind::QUERY, LARGE_MESSAGE_BYTES_MAX)
    .with(frontend::kind::PASSWORD, AUTHENTICATION_BYTES_MAX);

/// What a client may send before it is authenticated.
pub static FRONTEND_AUTHENTICATION: KindLimits = KindLimits::none()
    .with(frontend::kind::PASSWORD, AUTHENTICATION_BYTES_MAX)
    .with(frontend::kind::TERMINATE, 0);

/// What a server may send.
pub static BACKEND: KindLimits =
    KindLimits::none().with_all(&backend::kind::ALL, LARGE_MESSAGE_BYTES_MAX);

/// Where the last read ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splitter {
    /// Body bytes of the current message still to come.
    remaining: u32,
    /// Its whole body.
    body_bytes: u32,
    kind: u8,
    /// Bytes of a header that was cut by the end of a read.
    carried: u8,
    /// They are (kind first; with `carried` 0 it means nothing).
    header: [u8; 4],
}

const _: () =
    assert!(size_of::<Splitter>() <= 24, "there is one for each direction of each client");

impl Splitter {
    pub const fn new() -> Splitter {
        Splitter { remaining: 0, body_bytes: 0, kind: 0, carried: 0, header: [0; 4] }
    }

    /// Whether the stream stands between two messages: nothing of a next one has been seen.
    pub const fn is_between_messages(&self) -> bool {
        self.remaining == 0 && self.carried == 0
    }

    /// The pieces of what was read. The iterator must be run to its end (or to an error) before
    /// the next call; what it has not yielded when it is dropped early is lost, unless the caller
    /// keeps [`Pieces::rest`] and passes it next time.
    pub fn split<'s, 'a>(&'s mut self, bytes: &'a [u8], limits: &'s KindLimits) -> Pieces<'s, 'a> {
        Pieces { splitter: self, limits, rest: bytes }
    }
}

/// Some bytes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub kind: u8,
    /// Length of the whole body, whatever this piece holds of it.
    pub body_bytes: u32,
    pub part: Part<'a>,
    /// All bytes of the input that belong to this piece: the body part and as much of the header
    /// as was in this read.
    pub raw: &'a [u8],
    /// Header bytes that came with the read before: 0 except in the first piece of a read.
    pub carried: u8,
}

impl<'a> Piece<'a> {
    /// The message's kind byte and length word.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.body_bytes.saturating_add(4).to_be_bytes();
        [self.kind, a, b, c, d]
    }

    /// Header bytes that are not in `raw`: to be sent before it.
    pub fn write_carried(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header().get(..usize::from(self.carried)).unwrap_or_default());
    }

    /// The body, if this is a whole message.
    pub const fn whole(&self) -> Option<&'a [u8]> {
        match self.part {
            Part::Whole(body) => Some(body),
            _ => None,
        }
    }

    /// The bytes of the body in this piece.
    pub const fn bytes(&self) -> &'a [u8] {
        match self.part {
            Part::Whole(bytes) | Part::Start(bytes) | Part::Middle(bytes) | Part::End(bytes) => {
                bytes
            }
        }
    }

    /// Whether a message begins here.
    pub const fn begins(&self) -> bool {
        matches!(self.part, Part::Whole(_) | Part::Start(_))
    }

    /// Whether a message ends here.
    pub const fn ends(&self) -> bool {
        matches!(self.part, Part::Whole(_) | Part::End(_))
    }
}

/// Which part of a message's body a piece holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// The beginning (perhaps nothing yet).
    Start(&'a [u8]),
    Middle(&'a [u8]),
    /// The rest, at least one byte.
    End(&'a [u8]),
}

/// Iterator over the pieces of one read. An error stays: the connection is out of step, and each
/// further call gives the same error.
pub struct Pieces<'s, 'a> {
    splitter: &'s mut Splitter,
    limits: &'s KindLimits,
    rest: &'a [u8],
}

impl<'a> Pieces<'_, 'a> {
    /// Bytes not yet yielded.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The message that the last read left unfinished goes on (or its header does).
    #[cold]
    fn resume(&mut self) -> Option<Result<Piece<'a>, SplitError>> {
        if self.rest.is_empty() {
            return None;
        }
        if self.splitter.carried > 0 {
            return self.resume_header();
        }
        let left = usize::try_from(self.splitter.remaining).unwrap_or(usize::MAX);
        let taken = left.min(self.rest.len());
        let (bytes, rest) = self.rest.split_at_checked(taken)?;
        self.rest = rest;
        self.splitter.remaining -= u32::try_from(taken).unwrap_or(u32::MAX);
        let part =
            if self.splitter.remaining == 0 { Part::End(bytes) } else { Part::Middle(bytes) };
        let (kind, body_bytes) = (self.splitter.kind, self.splitter.body_bytes);
        Some(Ok(Piece { kind, body_bytes, part, raw: bytes, carried: 0 }))
    }

    fn resume_header(&mut self) -> Option<Result<Piece<'a>, SplitError>> {
        let carried = usize::from(self.splitter.carried);
        let wanted = HEADER_BYTES.saturating_sub(carried);
        let Some((more, body)) = self.rest.split_at_checked(wanted) else {
            self.carry(carried);
            return None;
        };
        let mut header = [0; HEADER_BYTES];
        let had = self.splitter.header.iter().take(carried);
        header.iter_mut().zip(had.chain(more)).for_each(|(to, from)| *to = *from);
        let [kind, length @ ..] = header;
        let body_bytes = match check(kind, u32::from_be_bytes(length), self.limits) {
            Ok(body_bytes) => body_bytes,
            Err(error) => return Some(Err(error)),
        };
        let raw = self.rest;
        self.splitter.carried = 0;
        let carried = u8::try_from(carried).unwrap_or(0);
        Some(Ok(self.begin(kind, body_bytes, raw, body, carried)))
    }

    /// A message whose header is known, with as much of its body as is there.
    fn begin(
        &mut self,
        kind: u8,
        body_bytes: u32,
        raw: &'a [u8],
        body: &'a [u8],
        carried: u8,
    ) -> Piece<'a> {
        let wanted = usize::try_from(body_bytes).unwrap_or(usize::MAX);
        if let Some((body, rest)) = body.split_at_checked(wanted) {
            let raw = raw.get(..raw.len().saturating_sub(rest.len())).unwrap_or_default();
            self.rest = rest;
            return Piece { kind, body_bytes, part: Part::Whole(body), raw, carried };
        }
        self.rest = &[];
        self.splitter.kind = kind;
        self.splitter.body_bytes = body_bytes;
        let here = u32::try_from(body.len()).unwrap_or(u32::MAX);
        self.splitter.remaining = body_bytes.saturating_sub(here);
        Piece { kind, body_bytes, part: Part::Start(body), raw, carried }
    }

    /// Keeps what there is of a header: fewer than five bytes with the `carried` ones.
    #[cold]
    fn carry(&mut self, carried: usize) {
        let slots = self.splitter.header.iter_mut().skip(carried);
        slots.zip(self.rest).for_each(|(slot, byte)| *slot = *byte);
        self.splitter.carried = u8::try_from(carried + self.rest.len()).unwrap_or(0);
        self.rest = &[];
    }
}

impl<'a> Iterator for Pieces<'_, 'a> {
    type Item = Result<Piece<'a>, SplitError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if !self.splitter.is_between_messages() {
            return self.resume();
        }
        let raw = self.rest;
        let Some(([kind, length @ ..], body)) = raw.split_first_chunk::<HEADER_BYTES>() else {
            if !raw.is_empty() {
                self.carry(0);
            }
            return None;
        };
        match check(*kind, u32::from_be_bytes(*length), self.limits) {
            Ok(body_bytes) => Some(Ok(self.begin(*kind, body_bytes, raw, body, 0))),
            Err(error) => Some(Err(error)),
        }
    }
}

/// The body's length, if the length word is in order.
#[inline]
fn check(kind: u8, length: u32, limits: &KindLimits) -> Result<u32, SplitError> {
    let length_max = limits.length_max(kind);
    if length < 4 || length > length_max {
        return Err(SplitError::new(kind, length, length_max));
    }
    Ok(length - 4)
}

/// The stream is not, or no longer, one of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// No such message goes in this direction.
    Kind(u8),
    /// The length word is below 4 (it counts itself) or above the kind's limit.
    Length { kind: u8, length: u32 },
}

impl SplitError {
    #[cold]
    const fn new(kind: u8, length: u32, length_max: u32) -> SplitError {
        if length_max == 0 { SplitError::Kind(kind) } else { SplitError::Length { kind, length } }
    }

    pub const fn sqlstate(&self) -> SqlState {
        SqlState::PROTOCOL_VIOLATION
    }
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SplitError::Kind(kind) => write!(f, "invalid frontend message type {kind}"),
            SplitError::Length { .. } => f.write_str("invalid message length"),
        }
    }
}

impl std::error::Error for SplitError {}
