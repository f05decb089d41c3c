//! The same message for another statement name: what a pooler does to Parse, Bind, Describe and
//! Close so that one server connection can hold the statements of many clients.
//!
//! Everything but the name is copied as it stands.

use super::{BindHead, kind};
use crate::wire::Malformed;
use crate::wire::read::Reader;
use crate::wire::write::{self, message};

/// Appends the Parse of this body under another name.
pub fn parse(out: &mut Vec<u8>, body: &[u8], name: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(body);
    reader.string()?;
    message(out, kind::PARSE, |out| {
        write::string(out, name);
        out.extend_from_slice(reader.rest());
    });
    Ok(())
}

/// Appends the Bind of this whole body for another statement; the portal stays.
pub fn bind(out: &mut Vec<u8>, body: &[u8], statement: &[u8]) -> Result<(), Malformed> {
    let head = BindHead::read(body)?;
    message(out, kind::BIND, |out| {
        write::string(out, head.portal);
        write::string(out, statement);
        out.extend_from_slice(body.get(head.bytes..).unwrap_or_default());
    });
    Ok(())
}

/// Appends the beginning of a Bind that is still arriving: kind, length and names. The caller
/// forwards the body from `head.bytes` on as it comes. `body_bytes` is the length of the body as
/// received.
pub fn bind_head(out: &mut Vec<u8>, head: BindHead<'_>, body_bytes: u32, statement: &[u8]) {
    let kept = usize::try_from(body_bytes).unwrap_or(usize::MAX).saturating_sub(head.bytes);
    let start = out.len();
    message(out, kind::BIND, |out| {
        write::string(out, head.portal);
        write::string(out, statement);
    });
    // The length word counts itself, the names just written and what will follow.
    let length = out.len().saturating_sub(start + 1).saturating_add(kept);
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    if let Some(field) = out.get_mut(start + 1..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        *field = length.to_be_bytes();
    }
}

/// Appends the Describe of a statement under another name.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    super::write::describe(out, super::Target::Statement(name));
}

/// Appends the Close of a statement under another name.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    super::write::close(out, super::Target::Statement(name));
}
