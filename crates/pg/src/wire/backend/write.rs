//! Builders of server messages; each appends one message to a vector.

use super::{Authentication, Field, Format, TransactionStatus, kind};
use crate::oid::Oid;
use crate::wire::frontend::write::formats;
use crate::wire::startup::ProtocolVersion;
use crate::wire::write::{self, message};

/// Any authentication message except [`sasl`], whose names are not yet bytes.
pub fn authentication(out: &mut Vec<u8>, authentication: Authentication<'_>) {
    message(out, kind::AUTHENTICATION, |out| match authentication {
        Authentication::Ok => write::i32(out, 0),
        Authentication::KerberosV5 => write::i32(out, 2),
        Authentication::CleartextPassword => write::i32(out, 3),
        Authentication::Md5Password { salt } => {
            write::i32(out, 5);
            out.extend_from_slice(&salt);
        }
        Authentication::Gss => write::i32(out, 7),
        Authentication::GssContinue(data) => request(out, 8, data),
        Authentication::Sspi => write::i32(out, 9),
        Authentication::Sasl(mechanisms) => {
            write::i32(out, 10);
            mechanisms.names().for_each(|name| write::string(out, name));
            out.push(0);
        }
        Authentication::SaslContinue(data) => request(out, 11, data),
        Authentication::SaslFinal(data) => request(out, 12, data),
    });
}

fn request(out: &mut Vec<u8>, code: i32, data: &[u8]) {
    write::i32(out, code);
    out.extend_from_slice(data);
}

/// AuthenticationSASL with these mechanisms, the preferred one first.
pub fn sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    message(out, kind::AUTHENTICATION, |out| {
        write::i32(out, 10);
        mechanisms.iter().for_each(|name| write::string(out, name));
        out.push(0);
    });
}

/// `key` is four bytes under protocol 3.0, 4 to 256 under 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    message(out, kind::BACKEND_KEY_DATA, |out| {
        write::u32(out, process_id);
        out.extend_from_slice(key);
    });
}

pub fn parameter_status(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    message(out, kind::PARAMETER_STATUS, |out| {
        write::string(out, name);
        write::string(out, value);
    });
}

pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    out.extend_from_slice(&[kind::READY_FOR_QUERY, 0, 0, 0, 5, status.code()]);
}

pub fn row_description(out: &mut Vec<u8>, fields: &[Field<'_>]) {
    message(out, kind::ROW_DESCRIPTION, |out| {
        write::count(out, fields.len());
        for field in fields {
            write::string(out, field.name);
            write::u32(out, field.table.0);
            write::i16(out, field.column);
            write::u32(out, field.type_oid.0);
            write::i16(out, field.type_len);
            write::i32(out, field.type_modifier);
            write::i16(out, field.format);
        }
    });
}

pub fn data_row(out: &mut Vec<u8>, values: &[Option<&[u8]>]) {
    message(out, kind::DATA_ROW, |out| {
        write::count(out, values.len());
        values.iter().for_each(|value| write::value(out, *value));
    });
}

pub fn command_complete(out: &mut Vec<u8>, tag: impl AsRef<[u8]>) {
    message(out, kind::COMMAND_COMPLETE, |out| write::string(out, tag));
}

pub fn empty_query(out: &mut Vec<u8>) {
    message(out, kind::EMPTY_QUERY, |_| {});
}

pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, kind::PARSE_COMPLETE, |_| {});
}

pub fn bind_complete(out: &mut Vec<u8>) {
    message(out, kind::BIND_COMPLETE, |_| {});
}

pub fn close_complete(out: &mut Vec<u8>) {
    message(out, kind::CLOSE_COMPLETE, |_| {});
}

pub fn portal_suspended(out: &mut Vec<u8>) {
    message(out, kind::PORTAL_SUSPENDED, |_| {});
}

pub fn no_data(out: &mut Vec<u8>) {
    message(out, kind::NO_DATA, |_| {});
}

pub fn parameter_description(out: &mut Vec<u8>, types: &[Oid]) {
    message(out, kind::PARAMETER_DESCRIPTION, |out| {
        write::count(out, types.len());
        types.iter().for_each(|oid| write::u32(out, oid.0));
    });
}

pub fn notification(
    out: &mut Vec<u8>,
    process_id: u32,
    channel: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
) {
    message(out, kind::NOTIFICATION, |out| {
        write::u32(out, process_id);
        write::string(out, channel);
        write::string(out, payload);
    });
}

/// The client sends data next.
pub fn copy_in(out: &mut Vec<u8>, format: Format, columns: &[Format]) {
    copy_response(out, kind::COPY_IN, format, columns);
}

/// Data follows.
pub fn copy_out(out: &mut Vec<u8>, format: Format, columns: &[Format]) {
    copy_response(out, kind::COPY_OUT, format, columns);
}

/// Data goes both ways: replication.
pub fn copy_both(out: &mut Vec<u8>) {
    copy_response(out, kind::COPY_BOTH, Format::Text, &[]);
}

fn copy_response(out: &mut Vec<u8>, kind: u8, format: Format, columns: &[Format]) {
    message(out, kind, |out| {
        out.push(u8::from(format == Format::Binary));
        formats(out, columns);
    });
}

pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    message(out, kind::COPY_DATA, |out| out.extend_from_slice(data));
}

pub fn copy_done(out: &mut Vec<u8>) {
    message(out, kind::COPY_DONE, |_| {});
}

pub fn function_call_response(out: &mut Vec<u8>, result: Option<&[u8]>) {
    message(out, kind::FUNCTION_CALL_RESPONSE, |out| write::value(out, result));
}

/// `version` is the newest that we speak with this client; `options` are those of its `_pq_.`
/// options that we do not know: all of them.
pub fn negotiate_protocol_version<'o>(
    out: &mut Vec<u8>,
    version: ProtocolVersion,
    options: impl IntoIterator<Item = &'o [u8]>,
) {
    message(out, kind::NEGOTIATE_PROTOCOL_VERSION, |out| {
        write::u32(out, version.0);
        let mut names = Vec::new();
        let mut count = 0;
        for option in options {
            write::string(&mut names, option);
            count += 1;
        }
        write::u32(out, count);
        out.extend_from_slice(&names);
    });
}
