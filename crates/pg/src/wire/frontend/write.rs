//! Builders of client messages; each appends one message to a vector.

use super::{Format, Target, kind};
use crate::oid::Oid;
use crate::wire::write::{self, message};

pub fn query(out: &mut Vec<u8>, sql: impl AsRef<[u8]>) {
    message(out, kind::QUERY, |out| write::string(out, sql));
}

/// An empty name is the unnamed statement; an empty list of types leaves all to the server.
pub fn parse(out: &mut Vec<u8>, name: impl AsRef<[u8]>, sql: impl AsRef<[u8]>, types: &[Oid]) {
    message(out, kind::PARSE, |out| {
        write::string(out, name);
        write::string(out, sql);
        write::count(out, types.len());
        types.iter().for_each(|oid| write::u32(out, oid.0));
    });
}

/// The formats: none for text, one for all, or one for each.
pub fn bind(
    out: &mut Vec<u8>,
    portal: impl AsRef<[u8]>,
    statement: impl AsRef<[u8]>,
    parameter_formats: &[Format],
    parameters: &[Option<&[u8]>],
    result_formats: &[Format],
) {
    message(out, kind::BIND, |out| {
        write::string(out, portal);
        write::string(out, statement);
        formats(out, parameter_formats);
        write::count(out, parameters.len());
        parameters.iter().for_each(|parameter| write::value(out, *parameter));
        formats(out, result_formats);
    });
}

pub(crate) fn formats(out: &mut Vec<u8>, formats: &[Format]) {
    write::count(out, formats.len());
    formats.iter().for_each(|format| write::i16(out, format.code()));
}

pub fn describe(out: &mut Vec<u8>, target: Target<'_>) {
    message(out, kind::DESCRIBE, |out| write_target(out, target));
}

pub fn close(out: &mut Vec<u8>, target: Target<'_>) {
    message(out, kind::CLOSE, |out| write_target(out, target));
}

fn write_target(out: &mut Vec<u8>, target: Target<'_>) {
    out.push(match target {
        Target::Statement(_) => b'S',
        Target::Portal(_) => b'P',
    });
    write::string(out, target.name());
}

/// `rows_max` 0 for all rows.
pub fn execute(out: &mut Vec<u8>, portal: impl AsRef<[u8]>, rows_max: i32) {
    message(out, kind::EXECUTE, |out| {
        write::string(out, portal);
        write::i32(out, rows_max);
    });
}

pub fn flush(out: &mut Vec<u8>) {
    message(out, kind::FLUSH, |_| {});
}

pub fn sync(out: &mut Vec<u8>) {
    message(out, kind::SYNC, |_| {});
}

pub fn terminate(out: &mut Vec<u8>) {
    message(out, kind::TERMINATE, |_| {});
}

pub fn function_call(
    out: &mut Vec<u8>,
    function: Oid,
    argument_formats: &[Format],
    arguments: &[Option<&[u8]>],
    result_format: Format,
) {
    message(out, kind::FUNCTION_CALL, |out| {
        write::u32(out, function.0);
        formats(out, argument_formats);
        write::count(out, arguments.len());
        arguments.iter().for_each(|argument| write::value(out, *argument));
        write::i16(out, result_format.code());
    });
}

pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    message(out, kind::COPY_DATA, |out| out.extend_from_slice(data));
}

pub fn copy_done(out: &mut Vec<u8>) {
    message(out, kind::COPY_DONE, |_| {});
}

pub fn copy_fail(out: &mut Vec<u8>, reason: impl AsRef<[u8]>) {
    message(out, kind::COPY_FAIL, |out| write::string(out, reason));
}

/// A clear password or an md5 response.
pub fn password(out: &mut Vec<u8>, password: impl AsRef<[u8]>) {
    message(out, kind::PASSWORD, |out| write::string(out, password));
}

pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: Option<&[u8]>) {
    message(out, kind::PASSWORD, |out| {
        write::string(out, mechanism);
        write::value(out, data);
    });
}

pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, kind::PASSWORD, |out| out.extend_from_slice(data));
}
