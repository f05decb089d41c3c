//! `pg_replslot/NAME/state`: a replication slot (`ReplicationSlotOnDisk` in `slot.c`, `ReplicationSlotPersistentData` in
//! `replication/slot.h`). What is read here stands at the same place from 9.4 to 18.

use crate::lsn::Lsn;
use crate::wal::cursor::{Cursor, u32_at};

/// `SLOT_MAGIC`.
const MAGIC: u32 = 0x0105_1CA1;
/// Where the checksum's part begins; behind it follow version, length, and so many bytes of the slot.
const COVERED_AT: usize = 8;
const SLOT_AT: usize = 16;
/// `NAMEDATALEN`.
const NAME_BYTES: usize = 64;

/// What a slot holds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationSlot {
    pub name: String,
    /// OID of its database; `None`: a physical slot.
    pub database: Option<u32>,
    /// It outlasts the connection that made it.
    pub is_persistent: bool,
    /// WAL from here on must be there; invalid if it holds none.
    pub restart: Lsn,
    /// What is committed before is not sent again; invalid for a physical slot.
    pub confirmed: Lsn,
}

impl ReplicationSlot {
    /// `None` for what is no slot's file, is cut off, or fails its checksum.
    pub fn parse(bytes: &[u8]) -> Option<ReplicationSlot> {
        let (magic, checksum) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
        let length = usize::try_from(u32_at(bytes, 12)?).ok()?;
        let covered = bytes.get(COVERED_AT..SLOT_AT.checked_add(length)?)?;
        if magic != MAGIC || crc32c::crc32c(covered) != checksum {
            return None;
        }
        let mut cursor = Cursor::new(bytes.get(SLOT_AT..)?);
        let name = cursor.bytes(NAME_BYTES)?.split(|&byte| byte == 0).next()?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let (database, persistency) = (cursor.u32()?, cursor.u32()?);
        let _horizons = (cursor.u32()?, cursor.u32()?);
        let restart = cursor.lsn()?;
        // A position or, from 16 on, a number and padding.
        let _invalidated = cursor.u64()?;
        let confirmed = cursor.lsn()?;
        let database = (database != 0).then_some(database);
        let is_persistent = persistency == 0;
        Some(ReplicationSlot { name, database, is_persistent, restart, confirmed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a server writes it, with what follows the fields that are read cut short.
    fn file(name: &str, database: u32, restart: u64) -> Vec<u8> {
        let mut slot = vec![0; NAME_BYTES];
        slot[..name.len()].copy_from_slice(name.as_bytes());
        for word in [database, 0, 7, 8] {
            slot.extend(word.to_le_bytes());
        }
        slot.extend(restart.to_le_bytes());
        slot.extend([0; 8]);
        slot.extend((restart + 0x10).to_le_bytes());
        slot.extend([0; 24]);
        let mut covered = 2_u32.to_le_bytes().to_vec();
        covered.extend(u32::try_from(slot.len()).expect("it is short").to_le_bytes());
        covered.extend(slot);
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend(crc32c::crc32c(&covered).to_le_bytes());
        file.extend(covered);
        file
    }

    #[test]
    fn a_slot_says_what_it_holds() {
        let slot = ReplicationSlot::parse(&file("cdc", 5, 0x0300_0028)).expect("it is whole");
        let expected = ReplicationSlot {
            name: "cdc".to_owned(),
            database: Some(5),
            is_persistent: true,
            restart: Lsn(0x0300_0028),
            confirmed: Lsn(0x0300_0038),
        };
        assert_eq!(slot, expected);
        let physical = ReplicationSlot::parse(&file("standby", 0, 0)).expect("it is whole");
        assert_eq!((physical.database, physical.restart), (None, Lsn::INVALID));
    }

    #[test]
    fn what_is_damaged_is_none() {
        let whole = file("cdc", 5, 0x0300_0028);
        for length in 0..whole.len() {
            assert_eq!(ReplicationSlot::parse(&whole[..length]), None, "{length}");
        }
        for byte in 0..whole.len() {
            let mut broken = whole.clone();
            broken[byte] ^= 1;
            assert_eq!(ReplicationSlot::parse(&broken), None, "{byte}");
        }
    }
}
