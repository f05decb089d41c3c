//! Rows that the console answers with, and how they travel: text or binary, int8 or text.

use std::borrow::Cow;

use pg::oid::Oid;
use pg::wire::backend::{Field, write};
use pg::wire::frontend::Format;

/// A column's name and type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// The two types that the console has: `int8` and `text`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Int,
    Text,
}

/// One value of a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(Cow<'static, str>),
}

pub(crate) type Row = Vec<Value>;

pub(super) const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int }
}

pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

impl Value {
    pub(super) fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn count(count: impl TryInto<i64>) -> Self {
        Self::Int(count.try_into().unwrap_or(i64::MAX))
    }

    pub(super) fn optional(text: Option<impl Into<Cow<'static, str>>>) -> Self {
        text.map_or(Self::Null, Self::text)
    }
}

/// Appends a RowDescription. `format` gives the format of each column by its place.
pub(super) fn write_description(
    out: &mut Vec<u8>,
    columns: &[Column],
    format: impl Fn(usize) -> Format,
) {
    let fields: Vec<Field<'_>> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let (oid, length) = match column.kind {
                Kind::Int => (Oid::INT8, 8),
                Kind::Text => (Oid::TEXT, -1),
            };
            let mut field = Field::text(column.name.as_bytes(), oid, length);
            field.format = format(index).code();
            field
        })
        .collect();
    write::row_description(out, &fields);
}

/// Appends a DataRow.
pub(super) fn write_row(out: &mut Vec<u8>, row: &[Value], format: impl Fn(usize) -> Format) {
    let encoded: Vec<Option<Cow<'_, [u8]>>> = row
        .iter()
        .enumerate()
        .map(|(index, value)| match value {
            Value::Null => None,
            Value::Text(text) => Some(Cow::Borrowed(text.as_bytes())),
            Value::Int(number) => Some(Cow::Owned(match format(index) {
                Format::Text => number.to_string().into_bytes(),
                Format::Binary => number.to_be_bytes().to_vec(),
            })),
        })
        .collect();
    let values: Vec<Option<&[u8]>> = encoded.iter().map(Option::as_deref).collect();
    write::data_row(out, &values);
}
