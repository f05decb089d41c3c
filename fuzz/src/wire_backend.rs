//! Backend messages and what flows inside CopyData: no input panics.

use pg::wire::backend::{Message, write};
use pg::wire::pagestream::{Reply, Request};
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::reply::{CreatedSlot, IdentifySystem, Position, ReadSlot, Tablespace};
use pg::wire::replication::{FromReceiver, FromSender, command};

/// Takes one input.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let body = rest.get(4..).unwrap_or(rest);
    match Message::read(*kind, body) {
        Ok(Message::DataRow(row)) => {
            let values: Vec<_> = row.collect();
            let mut built = Vec::new();
            write::data_row(&mut built, &values);
            assert_eq!(&built[5..], body);
            let _ = (IdentifySystem::read(row), CreatedSlot::read(row), ReadSlot::read(row));
            let _ = (Position::read(row), Tablespace::read(row));
        }
        Ok(Message::RowDescription(row)) => assert_eq!(row.fields().count(), row.len()),
        Ok(Message::Error(fields)) => assert!(!fields.to_string().is_empty()),
        Ok(Message::CopyData(data)) => {
            let _ = (FromSender::read(data), FromReceiver::read(data), BackupPart::read(data));
            let _ = (Request::read(data), Reply::read(data));
        }
        _ => {}
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(Some(parsed)) = command::parse(text)
    {
        assert_eq!(command::parse(&parsed.to_string()), Ok(Some(parsed)));
    }
}
